"""`llave serve`: a model behind OpenAI's `/v1/embeddings`, its clients' requests gathered into batches by tokens.

bodies (bytes) ─ requests (schema) ─ inputs (texts, pictures, clips) ─ queue (whose turn) ─ batching (threads) ─
answers (vectors)
"""
