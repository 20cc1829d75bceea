"""Qwen3.5 as a backbone: most of its layers have linear attention (gated delta rule), each fourth has full attention.

Pictures and videos go in as in Qwen3-VL. The user's turn is that of the model's own chat template, which has no system
turn and trims the text; the empty assistant turn is LLaVE's, without the marks of thinking. Self-contained: the file
travels with a model to the Hub.
"""

from __future__ import annotations

from dataclasses import replace

from .backbone_qwen_vl_llave import QWEN_VL, TimedPatchInputs


class TrimmedPatchInputs(TimedPatchInputs):
    """Images and videos as Qwen3-VL takes them, in a user turn without white space at its ends."""

    prompt = {**TimedPatchInputs.prompt, "trim": True}


# Its tower has no deep stack: as in Qwen2-VL, one merger is the projector. Published folders may name Qwen2's
# tokenizer, which cuts words before marks; transformers 5.17 would follow them.
QWEN3_5 = replace(QWEN_VL, visual_inputs=TrimmedPatchInputs, tokenizer_type="qwen3_5")
