"""Enum values as lower-case words, both ways: ``PROVIDER_CALDAV`` is ``caldav``, in arguments, in text and in JSON."""

from __future__ import annotations

from google.protobuf.descriptor import EnumDescriptor


def _prefix(enum: EnumDescriptor) -> str:
    """The prefix of the enum's values. The zero value has it too, and is always ``…_UNSPECIFIED``."""
    return enum.values_by_number[0].name.removesuffix("UNSPECIFIED")


def words(enum: EnumDescriptor) -> tuple[str, ...]:
    """The enum's words, in the order of their numbers, without ``unspecified``."""
    prefix = _prefix(enum)
    return tuple(value.name.removeprefix(prefix).lower() for value in enum.values if value.number != 0)


def word(enum: EnumDescriptor, number: int) -> str:
    """The word for a number. A number newer than this library is shown as ``unknown_<number>``."""
    value = enum.values_by_number.get(number)
    return f"unknown_{number}" if value is None else value.name.removeprefix(_prefix(enum)).lower()


def value_name(enum: EnumDescriptor, value: str | int | None) -> str:
    """The full name for a word or an enum value; None is the unspecified one.

    Raises ``ValueError`` that names the words there are.
    """
    if value is None:
        return enum.values_by_number[0].name
    if isinstance(value, int):
        if value in enum.values_by_number:
            return enum.values_by_number[value].name
    else:
        name = _prefix(enum) + value.upper()
        if name in enum.values_by_name and enum.values_by_name[name].number != 0:
            return name
    raise ValueError(f"{value!r} is not a {enum.name}: use one of {', '.join(words(enum))}.")
