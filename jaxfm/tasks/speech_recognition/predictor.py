"""A trained recogniser over sound files."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.errors import UserError
from jaxfm.tasks.sound_predictor import EncodedSounds, SoundPredictor
from jaxfm.tasks.speech_recognition.results import decoded, of_windows, text_of, words_of
from jaxfm.tasks.speech_recognition.spec import SpeechRecognizerSpec


@dataclasses.dataclass(frozen=True)
class SpeechRecognizerPredictor(SoundPredictor):
    """Sound files in, texts out (implements Predictor of core.task and core.reads_files.ReadsFiles)."""

    spec: SpeechRecognizerSpec

    @property
    def labels(self) -> tuple[str, ...]:
        """The symbols."""
        return self.spec.symbols

    @property
    def window_frames(self) -> int:
        """See `SoundPredictor`: those of the longest training clip, as positions after these were not learned."""
        return self.spec.longest

    def decode(self, encoded: EncodedSounds, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns "audio" (its name), "text", and "words" with "start" and "end" in seconds, and "score".

        A recording that is longer than the model reads is decoded as a whole, from steps each of which the window
        whose middle is nearest answers for.
        """
        results, first = [], 0
        for name, windows in zip(encoded.names, encoded.windows, strict=True):
            heard = of_windows(self.spec, encoded.rows, windows, first, outputs)
            first += len(windows)
            said = decoded(self.spec, heard.candidates)
            results.append(
                {"audio": name, "text": text_of(self.spec, said.ids), "words": words_of(self.spec, said, heard)}
            )
        return results

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the file's name, its text, and its words with their times."""
        words = [f"  {word['start']:8.2f} to {word['end']:8.2f} s  {word['word']}" for word in result["words"]]
        return [f"{result['audio']}: {result['text'] or '(nothing recognised)'}", *words]

    def hf_problem(self) -> str:
        """Returns why `write_hf` refuses."""
        return (
            "transformers has no class of an AST that recognises speech: its class of an AST "
            "gives a recording one vector of scores, and its CTC classes have other encoders."
        )

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Raises UserError as `hf_problem` says."""
        del folder, params
        raise UserError(self.hf_problem())

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        spec = self.spec
        seconds = spec.settings.most_samples / spec.layout.rate
        does = f"Writes down what is said in clips of sound, in {len(spec.symbols)} characters."
        code = 'from jaxfm.programs.model import Model\n\nModel("DIRECTORY")("sound.wav")["text"]'
        reads = (
            f"It reads {seconds:.2f} seconds at {spec.layout.rate:,} samples a second at once, longer recordings by "
            "windows that overlap."
        )
        return CardPart("Speech recognition", "automatic-speech-recognition", does, code, reads)
