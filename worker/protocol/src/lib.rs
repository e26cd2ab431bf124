//! What gateway, operator and workers say to each other.
