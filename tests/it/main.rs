//! The product's promises, tested on the binary with real models, topics and index.

mod apache_kafka;
mod bad_pictures;
mod chaos;
mod claim_check;
mod command_line;
mod data_directory;
mod dead_letters;
mod demo;
mod docs;
mod encoders;
mod generate;
mod index_admin;
mod index_build;
mod installed;
mod kill;
mod models;
mod one_recipe;
mod other_clients;
mod outages;
mod prompts_import;
mod registry;
mod search;
mod secure_kafka;
mod stack;
mod status;
mod traces;
