//! Qdrant's gRPC over qdrant-edge in this process.
