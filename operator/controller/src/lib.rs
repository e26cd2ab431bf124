//! The control loop, observe, plan, apply, report, and its worlds.
