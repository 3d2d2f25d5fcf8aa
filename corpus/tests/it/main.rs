//! Files as people have them, read and cleaned; tables as people want them.

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
