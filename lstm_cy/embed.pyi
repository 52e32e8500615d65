# Its functions are for C: embed.pxd. This is where `cimport` finds them, with their signatures.
__pyx_capi__: dict[str, object]
