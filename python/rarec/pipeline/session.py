"""What the steps of one process share: loaded language models, bars, and where messages go."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from transformers import PreTrainedTokenizerBase

from rarec.backbone import Backbone, LanguageModel
from rarec.run.folder import RunFolder
from rarec.settings import AlignSettings


class Session:
    """Loaded language models, and how progress is shown.

    Args:
        progress: Whether bars are shown.
        say: Function that is given each message about what is done; by default none is shown.
        wait: Wait for another process that makes the same artifact; by default that is an error.
    """

    def __init__(
        self,
        *,
        progress: bool = False,
        say: Callable[[str], None] | None = None,
        wait: bool = False,
    ) -> None:
        self.progress = progress
        self.wait = wait
        self.say = say or (lambda _: None)
        self._loaded: dict[LanguageModel, tuple[Backbone, PreTrainedTokenizerBase]] = {}

    def making(self, run: RunFolder, address: str) -> AbstractContextManager[None]:
        """Return the lock that this process holds while it makes an artifact.

        Args:
            run: The run.
            address: The address of the artifact.
        """
        return run.lock(address, wait=self.wait, say=self.say)

    def language_model(
        self, which: LanguageModel, *, is_changed: bool = False
    ) -> tuple[Backbone, PreTrainedTokenizerBase]:
        """Return a language model and its tokenizer; it is loaded once.

        Args:
            which: Name of the language model, and how its weights are held.
            is_changed: The caller changes the model, so a copy is loaded for it alone.

        Raises:
            ValueError: If there is no such language model, or it has another content than it must
                have.
        """
        if is_changed:
            return which.load()
        # a name may mean another folder or other files by now
        found = self._loaded.get(which.resolved())
        if found is None:
            found = which.load()
            self._loaded[which.resolved()] = found
        return found


def language_model_of(settings: AlignSettings) -> LanguageModel:
    """Return the language model that settings name.

    Raises:
        ValueError: If a package is missing that its quantization needs.
    """
    return LanguageModel(
        settings.llm,
        settings.llm_revision,
        settings.pooling,
        settings.quantization,
        settings.dtype,
    )
