# Its functions are for C: see embed.pxd and include/lstm_cy.h. `cimport` finds them here, with their signatures.
__pyx_capi__: dict[str, object]
#: a capsule with the table of include/lstm_cy.h
functions: object
