//! Stands in for tokio-postgres: nisshi-storage-sql enables nisshi-storage's PostgreSQL errors, but
//! we store in SQLite.

pub use error::Error;

pub mod error {
    //! Errors of a server that is never connected to.

    use std::convert::Infallible;

    /// An error of the server, which is never constructed.
    #[derive(Debug)]
    pub struct Error(Infallible);

    impl Error {
        /// The SQLSTATE of the error.
        pub fn code(&self) -> Option<&SqlState> {
            match self.0 {}
        }
    }

    impl std::fmt::Display for Error {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self.0 {}
        }
    }

    impl std::error::Error for Error {}

    /// A code of the SQL standard.
    #[derive(Debug, Eq, PartialEq)]
    pub struct SqlState(&'static str);

    impl SqlState {
        /// A statement took too long.
        pub const QUERY_CANCELED: Self = Self("57014");
    }
}
