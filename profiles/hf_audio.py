"""Reference: classification of sound with transformers' AST from scratch and its own Trainer (PyTorch).

  python profiles/hf_audio.py ARCHIVE.npz OUTPUT_DIR --label=digit --width=64 --layers=4 --heads=4

The archive has audio_SPLIT (int16, clips one after the other), offsets_SPLIT, sample_rate, and labels LABEL_SPLIT, for
train and test. Clips are resampled to --rate; frames are those of ASTFeatureExtractor, filled up to --frames; mean and
deviation are those of the training clips' frames, as the extractor wants them. Training clips are moved by up to
--shift seconds, get white noise of up to --noise of their root mean square, and --time_masks and --frequency_masks of
SpecAugment. AdamW, cosine decay, a tenth of warm-up. All settings that have no argument are the Trainer's own. Prints
one line of JSON: accuracy in percent, seconds of training, clips a second. It shares no code with jaxfm.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import numpy as np
import soxr
import torch
import transformers


class Clips(torch.utils.data.Dataset):
    """Frames of clips, changed at random where `settings` has changes."""

    def __init__(
        self,
        samples: list[np.ndarray],
        labels: np.ndarray,
        extractor: transformers.ASTFeatureExtractor,
        settings: dict[str, float] | None,
    ):
        self.samples, self.labels, self.extractor, self.settings = samples, labels, extractor, settings

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        samples = self.samples[index]
        if self.settings:
            samples = moved(samples, self.settings["shift"] * self.extractor.sampling_rate, self.settings["noise"])
        values = self.extractor(samples, sampling_rate=self.extractor.sampling_rate, return_tensors="np")
        frames = values["input_values"][0]
        if self.settings:
            count = min(len(frames), max(1, (len(samples) - 400) // 160 + 1))
            for axis, name, size in ((0, "time", count), (1, "frequency", frames.shape[1])):
                most = min(int(self.settings[f"{name}_width"]), count // 2 if axis == 0 else size)
                hide(frames, axis, int(self.settings[f"{name}_masks"]), most, size)
        return {"input_values": torch.from_numpy(frames), "labels": int(self.labels[index])}


def moved(samples: np.ndarray, most: float, noise: float) -> np.ndarray:
    """Returns samples [N] moved by up to `most` samples, silence coming in, with noise."""
    shift = int(torch.randint(-round(most), round(most) + 1, ()).item()) if most else 0
    found = np.zeros_like(samples)
    if abs(shift) < len(samples):
        found[max(shift, 0) : len(samples) + min(shift, 0)] = samples[max(-shift, 0) : len(samples) - max(shift, 0)]
    scale = torch.rand(()).item() * noise * float(np.sqrt(np.mean(np.square(found)) if len(found) else 0.0))
    return (found + scale * torch.randn(len(found)).numpy()).astype(np.float32)


def hide(frames: np.ndarray, axis: int, masks: int, most: int, size: int) -> None:
    """Sets stretches of frames [F, M] along an axis to 0, the mean."""
    for _ in range(masks):
        width = int(torch.randint(0, most + 1, ()).item())
        start = int(torch.randint(0, size - width + 1, ()).item())
        frames[(slice(None),) * axis + (slice(start, start + width),)] = 0.0


def clips_of(arrays: dict[str, np.ndarray], split: str, rate: int) -> list[np.ndarray]:
    """Returns the clips of a split, f32 between -1 and 1, at another rate."""
    audio, offsets = arrays[f"audio_{split}"].astype(np.float32) / 32768.0, arrays[f"offsets_{split}"]
    parts = [audio[start:end] for start, end in zip(offsets[:-1], offsets[1:], strict=True)]
    own = int(arrays["sample_rate"])
    return parts if own == rate else [soxr.resample(part, own, rate).astype(np.float32) for part in parts]


def statistics(clips: list[np.ndarray], extractor: transformers.ASTFeatureExtractor) -> tuple[float, float]:
    """Returns mean and deviation of the frames that clips have, without what fills them up."""
    values = []
    for clip in clips:
        frames = extractor(clip, sampling_rate=extractor.sampling_rate, return_tensors="np")["input_values"][0]
        values.append(frames[: max(1, (len(clip) - 400) // 160 + 1)].ravel())
    joined = np.concatenate(values).astype(np.float64)
    return float(joined.mean()), float(joined.std())


def main() -> None:
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--label", default="digit")
    sizes = {"patch": 8, "stride": 8, "mels": 64, "frames": 128, "width": 64, "layers": 4, "heads": 4, "batch": 32}
    masks = {"time_masks": 2, "time_width": 20, "frequency_masks": 2, "frequency_width": 10}
    for name, value in {**sizes, **masks, "rate": 16_000, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in {"epochs": 100.0, "lr": 1e-3, "decay": 0.05, "shift": 0.1, "noise": 0.1}.items():
        parser.add_argument(f"--{name}", type=float, default=value)
    arguments = parser.parse_args()
    if not arguments.archive.is_file():
        parser.error(f"{arguments.archive}: no such file")
    transformers.set_seed(arguments.seed)
    with np.load(arguments.archive, allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    shape = {"num_mel_bins": arguments.mels, "max_length": arguments.frames, "sampling_rate": arguments.rate}
    train, test = (clips_of(data, split, arguments.rate) for split in ("train", "test"))
    plain = transformers.ASTFeatureExtractor(**shape, do_normalize=False)
    mean, std = statistics(train, plain)
    # The extractor divides by twice the deviation that it is given.
    extractor = transformers.ASTFeatureExtractor(**shape, mean=mean, std=std / 2)
    changes = {name: getattr(arguments, name) for name in (*masks, "shift", "noise")}
    labels = {split: data[f"{arguments.label}_{split}"] for split in ("train", "test")}
    config = transformers.ASTConfig(
        hidden_size=arguments.width, num_hidden_layers=arguments.layers, num_attention_heads=arguments.heads,
        intermediate_size=4 * arguments.width, patch_size=arguments.patch, num_mel_bins=arguments.mels,
        max_length=arguments.frames, frequency_stride=arguments.stride, time_stride=arguments.stride,
    )  # fmt: skip
    config.num_labels = int(labels["train"].max()) + 1
    model = transformers.ASTForAudioClassification(config)
    settings = transformers.TrainingArguments(
        output_dir=str(arguments.output), num_train_epochs=arguments.epochs, learning_rate=arguments.lr,
        per_device_train_batch_size=arguments.batch, per_device_eval_batch_size=120, weight_decay=arguments.decay,
        lr_scheduler_type="cosine", warmup_steps=0.1, seed=arguments.seed, save_strategy="no", report_to="none",
        use_cpu=not torch.cuda.is_available(), logging_steps=100, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=settings, train_dataset=Clips(train, labels["train"], extractor, changes)
    )
    begun = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - begun
    logits = np.asarray(trainer.predict(Clips(test, labels["test"], extractor, None)).predictions)
    accuracy = 100 * float((logits.argmax(-1) == labels["test"]).mean())
    rate = arguments.epochs * len(train) / seconds
    print(json.dumps({"accuracy": round(accuracy, 2), "seconds": round(seconds, 1), "clips_per_s": round(rate, 1)}))


if __name__ == "__main__":
    main()
