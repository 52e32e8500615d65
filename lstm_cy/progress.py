"""Progress of long work: tqdm's bar, or one line where tqdm is not installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


def progress_bar(label: str, total: int | None, progress: bool) -> Any:
    """Return tqdm's bar, or a replacement, on standard error; one that shows nothing if there is no standard error."""
    if not progress or sys.stderr is None:
        return _Line(None)
    try:
        import tqdm.auto
    except ImportError:
        return _Line(label)
    return tqdm.auto.tqdm(desc=label, total=total, unit="step", file=_Forgiving(sys.stderr))


class _Forgiving:
    """A text stream that ignores all writes after the first that fails: the disk is full, or the stream is closed."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._writable = stream, True

    def write(self, text: str) -> int:
        """Write `text` if possible; return its length."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream's buffer if possible."""
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self._writable:
            try:
                action()
            except (OSError, ValueError):  # a closed stream raises ValueError
                self._writable = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Line:
    """A replacement for tqdm's bar: prints one line at the end, if it has a label."""

    def __init__(self, label: str | None) -> None:
        self.label, self.text = label, ""

    def update(self) -> None:
        pass

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        self.text = text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.label and kind is None and sys.stderr is not None:
            print(f"{self.label}  {self.text}", file=_Forgiving(sys.stderr), flush=True)
