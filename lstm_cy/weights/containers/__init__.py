"""Readers and writers of containers: bytes on one side, named arrays on the other. They know no layer."""
