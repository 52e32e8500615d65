"""HDF5 files, read with suspicion: plain arrays and texts, and nothing that points elsewhere or unfolds.

What Keras writes is contiguous and uncompressed. Everything else that HDF5 can hold (links to other files, external
storage, virtual and compressed datasets, references) is refused, and every size is compared with the file's first.
"""

import math

import numpy as np

#: groups and datasets; a model has a few for each layer
_MAX_OBJECTS = 20_000
_MAX_NAME = 1024


def read(file, size, *, skip=(), texts=()):
    """All arrays and some attributes of an HDF5 file.

    Parameters
    ----------
    file : binary file, seekable
    size : int
        Its bytes.
    skip : collection of str
        Groups at the top that are passed over.
    texts : collection of str
        Names of attributes to read, wherever a group has them.

    Returns
    -------
    arrays : dict
        {path: ndarray} of numbers, such as "layers/dense/vars/0".
    texts : dict
        {(path of the group, attribute's name): str}; the path of the topmost is "".

    Raises
    ------
    ValueError
        The file is truncated, damaged, or holds something else; the message names it.
    ImportError
        h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ImportError("Keras files need an extra: pip install lstm_cy[keras]") from None
    try:
        with h5py.File(file, "r") as root:
            return _walk(h5py, root, size, skip, texts)
    except (OSError, RuntimeError, LookupError, TypeError, AttributeError, OverflowError) as error:  # h5py's own
        raise ValueError(f"truncated, damaged, or not an HDF5 file: {error}") from None


def _walk(h5py, root, size, skip, wanted):
    arrays, texts, seen, left = {}, {}, set(), size
    waiting = [("", root)]
    while waiting:
        path, thing = waiting.pop()
        where = h5py.h5o.get_info(thing.id)
        if (where.fileno, where.addr) in seen:
            raise ValueError(f"{path!r} is linked to from two places")
        seen.add((where.fileno, where.addr))
        if isinstance(thing, h5py.Dataset):
            arrays[path] = _array(h5py, path, thing, left)
            left -= arrays[path].nbytes
            continue
        texts |= {(path, name): _text(h5py, path, thing, name) for name in wanted if name in thing.attrs}
        if len(thing) + len(seen) + len(waiting) > _MAX_OBJECTS:
            raise ValueError(f"{path!r}: more than {_MAX_OBJECTS} groups and datasets")
        for name in thing:
            inside = f"{path}/{name}" if path else name
            if len(inside) > _MAX_NAME:
                raise ValueError(f"{inside[:80]!r}...: a name of {len(inside)} characters")
            if inside in skip:
                continue
            link = thing.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise ValueError(f"{inside!r} is a link ({type(link).__name__}), which is not followed")
            waiting.append((inside, thing[name]))
            if not isinstance(waiting[-1][1], h5py.Group | h5py.Dataset):
                raise ValueError(f"{inside!r} is neither a group nor a dataset")
    return arrays, texts


def _array(h5py, path, dataset, left):
    """A dataset's numbers, once it is certain that they are in what is left of the file."""
    created = dataset.id.get_create_plist()
    if created.get_external_count():
        raise ValueError(f"{path!r} has its data in another file, which is not read")
    if created.get_layout() not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or created.get_nfilters():
        raise ValueError(f"{path!r} is chunked, compressed or virtual; only contiguous datasets are read")
    if dataset.id.get_type().get_class() not in (h5py.h5t.FLOAT, h5py.h5t.INTEGER):
        raise ValueError(f"{path!r}: expected numbers, got another type")
    dtype, shape = dataset.dtype, dataset.shape
    if dtype.kind not in "iuf" or dtype.itemsize > 8 or shape is None:
        raise ValueError(f"{path!r}: expected an array of numbers, got {dtype} {shape}")
    needed, stored = math.prod(shape) * dtype.itemsize, dataset.id.get_storage_size()
    if needed != stored or needed > left:
        raise ValueError(f"{path!r}: {shape} of {dtype} takes {needed} bytes, the file has {min(stored, left)}")
    array = np.empty(shape, dtype)
    if array.size:
        dataset.read_direct(array)
    return array


def _text(h5py, path, group, name):
    """An attribute that is one string."""
    attribute = group.attrs.get_id(name)
    if attribute.get_type().get_class() != h5py.h5t.STRING or attribute.shape != ():
        raise ValueError(f"attribute {name!r} of {path or '/'!r}: expected one text, got {attribute.shape} of another type")
    text = group.attrs[name]
    return text.decode() if isinstance(text, bytes) else str(text)
