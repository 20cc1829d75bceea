"""The columns of a training row that are known by their names."""

from __future__ import annotations

REQUIRED = ("qry", "pos_text")
PICTURES = {"qry_image": "qry_image_path", "pos_image": "pos_image_path", "neg_image": "neg_image_path"}
OPTIONAL = ("qry_image_path", "qry_video_path", "pos_image_path", "pos_video_path")
NEGATIVES = ("neg_text", "neg_image_path", "neg_video_path")

LABEL = "label"
HARDNESS = "pos_hardness"
NEGATIVE_HARDNESS = "neg_hardness"
SCORE = "pos_score"
NEGATIVE_SCORE = "neg_score"
GROUP = "batch_group"
JUDGEMENTS = (LABEL, HARDNESS, NEGATIVE_HARDNESS, SCORE, NEGATIVE_SCORE, GROUP)
KNOWN = frozenset((*REQUIRED, *OPTIONAL, *NEGATIVES, *PICTURES, *JUDGEMENTS))
