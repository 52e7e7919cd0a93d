"""Reference: classification of images with transformers' ViT from scratch and its own Trainer (PyTorch).

  python profiles/hf_image.py DATA_DIR OUTPUT_DIR --patch=4 --width=128 --layers=6 --heads=4

DATA_DIR holds images.npz: x_train, y_train, x_test, y_test, uint8 pixels [N, H, W, C] and class numbers. Training
images are shifted by up to --shift pixels (mirrored at the border) and, with --flip, mirrored in half of the cases;
pixels are normalised by mean and deviation of each channel of the training images. AdamW, cosine decay, a tenth of
warm-up. All settings that have no argument are the Trainer's own. Prints one line of JSON: accuracy in percent, seconds
of training, images a second. It shares no code with jaxfm.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import numpy as np
import torch
import transformers


class Images(torch.utils.data.Dataset):
    """Normalised images, changed at random where they are for training."""

    def __init__(
        self, pixels: np.ndarray, labels: np.ndarray, mean: np.ndarray, std: np.ndarray, shift: int, flip: bool
    ):
        self.pixels = ((pixels / 255.0 - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)
        self.labels, self.shift, self.flip = labels, shift, flip

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.pixels[index]
        if self.shift:
            size = self.shift
            padded = np.pad(image, ((0, 0), (size, size), (size, size)), mode="reflect")
            top, left = torch.randint(0, 2 * size + 1, (2,)).tolist()
            image = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        if self.flip and torch.rand(()).item() < 0.5:
            image = image[:, :, ::-1]
        return {"pixel_values": torch.from_numpy(np.ascontiguousarray(image)), "labels": int(self.labels[index])}


def main() -> None:
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    for name, value in {"patch": 4, "width": 128, "layers": 6, "heads": 4, "shift": 0, "batch": 64, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument("--flip", action="store_true")
    arguments = parser.parse_args()
    path = arguments.data / "images.npz"
    if not path.is_file():
        parser.error(f"{path}: no such file")
    transformers.set_seed(arguments.seed)
    with np.load(path, allow_pickle=False) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    scaled = data["x_train"] / 255.0
    mean, std = scaled.mean(axis=(0, 1, 2)), scaled.std(axis=(0, 1, 2))
    train = Images(data["x_train"], data["y_train"], mean, std, arguments.shift, arguments.flip)
    test = Images(data["x_test"], data["y_test"], mean, std, 0, False)
    config = transformers.ViTConfig(
        hidden_size=arguments.width, num_hidden_layers=arguments.layers, num_attention_heads=arguments.heads,
        intermediate_size=4 * arguments.width, image_size=data["x_train"].shape[1], patch_size=arguments.patch,
        num_channels=data["x_train"].shape[3], num_labels=int(data["y_train"].max()) + 1,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    settings = transformers.TrainingArguments(
        output_dir=str(arguments.output), num_train_epochs=arguments.epochs, learning_rate=arguments.lr,
        per_device_train_batch_size=arguments.batch, per_device_eval_batch_size=256, weight_decay=arguments.decay,
        lr_scheduler_type="cosine", warmup_steps=0.1, seed=arguments.seed, save_strategy="no", report_to="none",
        use_cpu=not torch.cuda.is_available(), logging_steps=100, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = transformers.Trainer(model=model, args=settings, train_dataset=train)
    begun = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - begun
    logits = trainer.predict(test).predictions
    accuracy = 100 * float((logits.argmax(-1) == data["y_test"]).mean())
    rate = arguments.epochs * len(train) / seconds
    print(json.dumps({"accuracy": round(accuracy, 2), "seconds": round(seconds, 1), "images_per_s": round(rate, 1)}))


if __name__ == "__main__":
    main()
