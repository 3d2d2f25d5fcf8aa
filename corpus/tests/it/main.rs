//! Tests of the corpus: reading and cleaning files, and writing tables.

mod cleaning;
mod damage;
mod formats;
mod hostile;
mod near;
mod published;
mod remote;
mod resume;
mod samples;
mod tables;
