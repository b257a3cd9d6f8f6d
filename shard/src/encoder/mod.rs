//! Turns pictures into embeddings.
