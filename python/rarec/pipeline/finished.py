"""Whether a step has been done before: with the same settings, with others, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from rarec.artifacts import LockedError, remove
from rarec.backbone import LanguageModel, full_name, short_hash
from rarec.pipeline.session import language_model_of
from rarec.run.folder import RunFolder
from rarec.run.freshness import fresh_record
from rarec.run.records import Record
from rarec.settings import AlignSettings, IDSettings, as_dict, differences, from_dict

StepSettings = TypeVar("StepSettings", AlignSettings, IDSettings)

#: Settings that name the language model of a step, by the first of them.
_NAMES = {"llm": ("llm", "llm_revision"), "text": ("text",)}


class OtherSettingsError(ValueError):
    """Something was made, or begun, with other settings, and is not to be made again."""


def finished_record(
    run: RunFolder, address: str, settings: StepSettings, *, restart: bool = False
) -> Record | None:
    """Return the record of an artifact that is fresh and was made with these settings.

    None means that it has to be made: it is absent, out of date, or is to be made again.

    Args:
        run: The run.
        address: Path of the artifact in the run.
        settings: Settings of this call.
        restart: Make it again in any case.

    Raises:
        OtherSettingsError: If it was made with other settings or with another content of the
            language model, and is not to be made again.
    """
    record = None if restart else fresh_record(run, address)
    if record is None:
        return None
    different = what_differs(settings, record.settings, record.language_models)
    if not different:
        return record
    raise OtherSettingsError(
        f"{run.path}: {address} was made with other settings: "
        f"{'; '.join(different)}; restart (--restart) makes it again"
    )


def forget_checkpoints(run: RunFolder, address: str) -> None:
    """Remove the checkpoints of a training that is finished, if it was stopped before it did that.

    Args:
        run: The run.
        address: Path of the finished artifact in the run.
    """
    checkpoints = run.checkpoints(address)
    # those of a process that makes it again now stay
    if checkpoints.exists():
        with suppress(LockedError), run.lock(address):
            remove(checkpoints)


def what_differs(
    settings: StepSettings, stored: Mapping[str, Any], stored_models: Mapping[str, str]
) -> list[str]:
    """Return what is other than in an earlier call: settings, the content of the language model.

    A language model of the same content is the same one, by whatever name.

    Args:
        settings: Settings of this call.
        stored: Settings of the earlier call (see `settings_to_keep`).
        stored_models: Content of its language model (see `language_models`).
    """
    settings = _with_full_name(settings)
    before = from_dict(type(settings), stored)
    other = []
    for role, now in language_models(settings).items():
        then = stored_models.get(role)
        if then == now:
            before = replace(before, **{name: getattr(settings, name) for name in _NAMES[role]})
        elif then is not None:
            name = getattr(settings, role)
            other.append(f"content of {role} {name!r} ({short_hash(then)}, now {short_hash(now)})")
    return [*differences(settings, before), *other]


def settings_to_keep(settings: StepSettings) -> dict[str, Any]:
    """Return the settings of a step for its record; the path of a language model is absolute."""
    return as_dict(_with_full_name(settings))


def language_models(settings: StepSettings) -> dict[str, str]:
    """Return the hash of the content of the language model of a step, by the setting that names it.

    Empty if the step reads none, or the language model is not on this machine yet.

    Args:
        settings: Settings of the step.
    """
    role = _role(settings)
    if not getattr(settings, role):
        return {}
    model = language_model_of(settings) if isinstance(settings, AlignSettings) else None
    content = (model or LanguageModel(getattr(settings, role))).content()
    return {} if content is None else {role: content}


def _with_full_name(settings: StepSettings) -> StepSettings:
    role = _role(settings)
    return replace(settings, **{role: full_name(getattr(settings, role))})


def _role(settings: AlignSettings | IDSettings) -> str:
    """Return the name of the setting that names the language model."""
    return "llm" if isinstance(settings, AlignSettings) else "text"
