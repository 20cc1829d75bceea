"""Published LLaVE checkpoints, in the layout of the research code (`model_type: llava_qwen`).

Once llave_hf is imported, `AutoModel.from_pretrained` and `AutoProcessor.from_pretrained` open such a folder or Hub
repository as a [`LlaveModel`] and a [`LlaveProcessor`].
"""
