"""Simulated worlds for the calibration: rows with embeddings, labels, confidences and feedback, unmoved or moved by a stated amount."""

from __future__ import annotations

import numpy as np

from attune.core.contracts import WindowData
from attune.core.randomness import generator

CLASSES = 16
WIDTH = 32


def world(rows: int, seed: int, *, class_points: float = 0.0, embedding_sd: float = 0.0, accuracy_points: float = 0.0, feedback: float = 1.0) -> WindowData:
    """`rows` rows: 16 classes with a centre each in 32 dimensions, accuracy 92 %.

    Args:
        rows: how many.
        seed: whose draws.
        class_points: how much the first class gains (0.1: ten points), all others losing alike.
        embedding_sd: shift along 4 directions, in standard deviations.
        accuracy_points: how much accuracy falls; confidence falls with it.
        feedback: share of rows that say what was right.
    """
    draw = generator(seed, "world", rows)
    shares = np.full(CLASSES, (1 - 1 / CLASSES - class_points) / (CLASSES - 1))
    shares[0] = 1 / CLASSES + class_points
    label = draw.choice(CLASSES, rows, p=shares)
    centres = generator(0, "centres").normal(size=(CLASSES, WIDTH)) * 0.7
    vectors = centres[label] + draw.normal(size=(rows, WIDTH))
    vectors[:, :4] += embedding_sd
    correct = (draw.random(rows) < 0.92 - accuracy_points).astype(float)
    confidence = np.clip(draw.beta(9, 1.5, rows) - 0.15 * (1 - correct), 0, 1)
    correct[draw.random(rows) >= feedback] = np.nan
    return WindowData([f"row {i}" for i in range(rows)], vectors.astype(np.float32), [f"class {i:02}" for i in label], confidence, correct)
