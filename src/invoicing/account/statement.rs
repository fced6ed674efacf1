//! Statements: the entries of an account over a time, with the balance before and after.
