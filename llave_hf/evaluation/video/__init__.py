"""Zero-shot text-video retrieval on MSR-VTT and MSVD (`llave evaluate-videos`)."""
