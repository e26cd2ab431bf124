//! Numbers in, numbers out: each op beside its plain reference.
