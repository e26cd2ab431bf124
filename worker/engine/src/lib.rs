//! The inference engine: deterministic given weights, requests and seed.
