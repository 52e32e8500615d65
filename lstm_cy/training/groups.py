"""Parameter groups: the options that an optimizer uses for each parameter, chosen by patterns over their names."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ..checks import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ..typing import Parameters

# How many names a message lists.
_MOST_NAMED = 20


def checked_patterns(name: str, value: Any) -> list[str]:
    """Return `value`, a pattern or a sequence of them, as a list."""
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, tuple | list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"{name}: expected a pattern such as '0.*', or a list of them, got {shown(value)}")
    return list(patterns)


def checked_groups(
    groups: Any, options: dict[str, Any], check: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return `groups` as a list of dicts of "parameters", a list of patterns, and the checked options that they set.

    `options` has a value of every option, and `check` checks such a dict; its first argument is the beginning of the
    names in messages.
    """
    if not isinstance(groups, tuple | list):
        raise TypeError(f"groups: expected a list of dicts, got {shown(groups)}")
    return [_checked_group(f"groups[{index}]", group, options, check) for index, group in enumerate(groups)]


def _checked_group(
    where: str, group: Any, options: dict[str, Any], check: Callable[[str, dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    if not isinstance(group, Mapping):
        raise TypeError(f"{where}: expected a dict with 'parameters' and options, got {shown(group)}")
    if "parameters" not in group:
        raise ValueError(f"{where}: expected 'parameters', a pattern or a list of them, got {shown(dict(group))}")
    given = {name: value for name, value in group.items() if name != "parameters"}
    unknown = [name for name in given if name not in options]
    if unknown:
        raise ValueError(f"{where}: expected options among {', '.join(options)}, got {shown(unknown[0])}")
    checked = check(f"{where}: ", {**options, **given})
    patterns = checked_patterns(f"{where}['parameters']", group["parameters"])
    return {"parameters": patterns, **{name: checked[name] for name in given}}


def first_matches(names: Collection[str], patterns: Iterable[tuple[str, list[str]]]) -> dict[str, int]:
    """Return {name: index of the first item of `patterns` that matches it}, without the names that none matches.

    An item is (where it comes from, for messages, and its patterns). A pattern that matches no name is a ValueError.
    """
    found: dict[str, int] = {}
    for index, (where, its) in enumerate(patterns):
        for pattern in its:
            matched = [name for name in names if fnmatchcase(name, pattern)]
            if not matched:
                raise ValueError(
                    f"{where}: expected patterns that match parameters of the model, got {pattern!r}, which matches "
                    f"none of {_listed(names)}"
                )
            for name in matched:
                found.setdefault(name, index)
    return found


def options_of(
    parameters: Parameters, options: dict[str, Any], groups: list[dict[str, Any]], frozen: list[str], fixed: Any
) -> dict[str, dict[str, Any]]:
    """Return {name: its options} for each parameter that is trained.

    Parameters
    ----------
    parameters : dict
    options : dict
        The options of parameters in no group.
    groups : list of dict
        From `checked_groups`.
    frozen : list of str
        Patterns of parameters that are not trained.
    fixed : collection of str
        The names of more of them.
    """
    patterns = [("frozen", frozen)]
    patterns += [(f"groups[{index}]['parameters']", group["parameters"]) for index, group in enumerate(groups)]
    found = first_matches(parameters, patterns)
    chosen = {}
    for name, array in parameters.items():
        index = found.get(name)
        if name in fixed or index == 0:
            continue
        own = {**options, "lr": None} if index is None else {**options, "lr": None, **groups[index - 1]}
        own.pop("parameters", None)
        # Biases, and the scales of a normalization, have one axis.
        if not own.pop("decay_biases") and array.ndim < 2:
            own["weight_decay"] = 0.0
        chosen[name] = own
    if parameters and not chosen:
        raise ValueError(f"frozen: expected patterns that leave a parameter to train, got {shown(frozen)}")
    return chosen


def _listed(names: Collection[str]) -> str:
    """Return the first of the names as text."""
    first = list(names)[:_MOST_NAMED]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")
