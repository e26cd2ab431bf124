//! Every decision naru makes, as functions from data to data.
