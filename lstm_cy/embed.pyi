# Its functions are for C: see embed.pxd. `cimport` finds them here, with their signatures.
__pyx_capi__: dict[str, object]
