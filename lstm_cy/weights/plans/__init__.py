"""Plans of graphs: what is computed by which code, for inputs of given shapes, with the memory that it takes.

A plan is made the first time that a graph runs with inputs of some shapes. Everything that follows from the shapes is
computed then. The steps that the kernels know become operations of a program, which runs in one call without the GIL;
the others are called from Python, between programs.
"""
