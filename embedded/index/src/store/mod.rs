//! The collections of one data directory, their names and their folders.
//!
//! `catalogue.json` is the truth. A collection lives in `collections/<uuid>`. A crash in a creation
//! or a deletion leaves a folder that the catalogue does not name; the next start removes it.

mod catalogue;
mod folder;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use qdrant_client::qdrant::alias_operations::Action;
use qdrant_client::qdrant::{CollectionConfig, CreateAlias, DeleteAlias, RenameAlias};
use tonic::Status;
use uuid::Uuid;

use self::catalogue::{Catalogue, Entry};
use self::folder::DataFolder;
use crate::EmbeddedIndexError;
use crate::shard::Shard;

/// The open collections of a data directory, which it holds for itself alone.
#[derive(Debug)]
pub(crate) struct Store {
    folder: DataFolder,
    /// Serialises changes of the catalogue, which write a file; readers only take `state`.
    changes: Mutex<()>,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    catalogue: Catalogue,
    shards: HashMap<String, Arc<Shard>>,
}

impl Store {
    /// Opens every collection in `path`, which it creates if it is missing. Blocks while logs are
    /// replayed.
    pub fn open(path: &Path) -> Result<Self, EmbeddedIndexError> {
        let folder = DataFolder::open(path)?;
        let catalogue = folder.read_catalogue()?;
        folder.sweep(&catalogue)?;
        let mut shards = HashMap::new();
        for (name, entry) in &catalogue.collections {
            let config = folder.config_of(name, entry)?;
            let at = folder.collection(entry.folder);
            let shard = load(name, &at, config).map_err(|reason| EmbeddedIndexError::damaged(&at, reason))?;
            shards.insert(name.clone(), Arc::new(shard));
        }
        let state = RwLock::new(State { catalogue, shards });
        Ok(Self { folder, changes: Mutex::default(), state })
    }

    /// The collection of that name or alias.
    pub fn shard(&self, name: &str) -> Result<Arc<Shard>, Status> {
        let state = self.state.read();
        let collection = state.catalogue.aliases.get(name).map_or(name, String::as_str);
        state
            .shards
            .get(collection)
            .cloned()
            .ok_or_else(|| Status::not_found(format!("Not found: Collection `{name}` doesn't exist!")))
    }

    /// The names of the collections, sorted.
    pub fn names(&self) -> Vec<String> {
        self.state.read().catalogue.collections.keys().cloned().collect()
    }

    /// Pairs of alias and collection, sorted.
    pub fn aliases(&self) -> Vec<(String, String)> {
        let state = self.state.read();
        state.catalogue.aliases.iter().map(|(alias, name)| (alias.clone(), name.clone())).collect()
    }

    /// Makes a collection. Blocks.
    pub fn create(&self, name: &str, config: CollectionConfig) -> Result<(), Status> {
        check_name(name)?;
        let _change = self.changes.lock();
        if self.state.read().catalogue.knows(name) {
            return Err(Status::already_exists(format!("Wrong input: Collection `{name}` already exists!")));
        }
        let entry = Entry::new(Uuid::new_v4(), &config);
        let at = self.folder.collection(entry.folder);
        let shard = match Shard::create(name, &at, config) {
            Ok(shard) => Arc::new(shard),
            Err(status) => {
                self.folder.remove(&at);
                return Err(status);
            }
        };
        let mut catalogue = self.state.read().catalogue.clone();
        catalogue.collections.insert(name.to_owned(), entry);
        self.folder.write_catalogue(&catalogue)?;
        let mut state = self.state.write();
        state.catalogue = catalogue;
        state.shards.insert(name.to_owned(), shard);
        Ok(())
    }

    /// Removes a collection and its aliases; false if there is none. Blocks until its threads have
    /// ended, so that nothing writes to a folder that is being removed.
    pub fn delete(&self, name: &str) -> Result<bool, Status> {
        let change = self.changes.lock();
        let mut catalogue = self.state.read().catalogue.clone();
        let name = catalogue.aliases.get(name).cloned().unwrap_or_else(|| name.to_owned());
        let Some(entry) = catalogue.collections.remove(&name) else { return Ok(false) };
        catalogue.aliases.retain(|_, collection| *collection != name);
        self.folder.write_catalogue(&catalogue)?;
        let shard = {
            let mut state = self.state.write();
            state.catalogue = catalogue;
            state.shards.remove(&name)
        };
        drop(change);
        if let Some(shard) = shard {
            shard.stop(Duration::MAX);
        }
        self.folder.remove(&self.folder.collection(entry.folder));
        Ok(true)
    }

    /// Changes a collection's configuration. Blocks. A change that an open collection cannot take
    /// over closes it for a moment, in which requests are answered UNAVAILABLE.
    pub fn update(
        &self,
        name: &str,
        change: impl FnOnce(CollectionConfig) -> Result<CollectionConfig, Status>,
    ) -> Result<(), Status> {
        let _change = self.changes.lock();
        let shard = self.shard(name)?;
        let config = change(shard.config())?;
        let shard = match shard.takes_over(&config) {
            true => {
                shard.reconfigure(&config)?;
                shard
            }
            false => self.reopen(&shard, &config)?,
        };
        let mut catalogue = self.state.read().catalogue.clone();
        if let Some(entry) = catalogue.collections.get_mut(shard.name()) {
            entry.set_config(&config);
        }
        self.folder.write_catalogue(&catalogue)?;
        self.state.write().catalogue = catalogue;
        Ok(())
    }

    /// Closes a collection and opens it with another configuration, or with its own if that fails.
    /// Its segments converge to the configuration as they are optimised.
    fn reopen(&self, shard: &Shard, config: &CollectionConfig) -> Result<Arc<Shard>, Status> {
        Shard::check(config)?;
        let name = shard.name();
        let entry = self.state.read().catalogue.collections.get(name).cloned();
        let entry = entry
            .ok_or_else(|| Status::not_found(format!("Not found: Collection `{name}` doesn't exist!")))?;
        let at = self.folder.collection(entry.folder);
        shard.stop(Duration::MAX);
        let opened = Shard::load(name, &at, config.clone(), true);
        let (reopened, error) = match opened {
            Ok(reopened) => (reopened, None),
            Err(error) => (Shard::load(name, &at, shard.config(), false)?, Some(error)),
        };
        let reopened = Arc::new(reopened);
        self.state.write().shards.insert(name.to_owned(), Arc::clone(&reopened));
        error.map_or(Ok(reopened), Err)
    }

    /// Applies all changes of aliases, or none. Blocks.
    pub fn change_aliases(&self, actions: Vec<Action>) -> Result<(), Status> {
        let _change = self.changes.lock();
        let mut catalogue = self.state.read().catalogue.clone();
        for action in actions {
            apply(&mut catalogue, action)?;
        }
        self.folder.write_catalogue(&catalogue)?;
        self.state.write().catalogue = catalogue;
        Ok(())
    }

    /// Writes everything out and ends every thread. It waits for an optimisation under way until
    /// `grace` is over; after one that is cut off, the next start sees the state before it.
    pub fn stop(&self, grace: Duration) {
        let shards: Vec<_> = self.state.write().shards.drain().map(|(_, shard)| shard).collect();
        let closed: Vec<bool> = shards.into_iter().map(|shard| shard.stop(grace)).collect();
        if closed.into_iter().all(|closed| closed) {
            self.folder.release();
        }
    }
}

/// Opens a collection. Edge may report damage by a panic.
fn load(name: &str, at: &Path, config: CollectionConfig) -> Result<Shard, String> {
    let load = AssertUnwindSafe(|| Shard::load(name, at, config, false));
    match catch_unwind(load) {
        Ok(Ok(shard)) => Ok(shard),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            Err(text
                .or_else(|| panic.downcast_ref().copied())
                .unwrap_or("its files make no sense")
                .to_owned())
        }
    }
}

fn apply(catalogue: &mut Catalogue, action: Action) -> Result<(), Status> {
    match action {
        Action::CreateAlias(CreateAlias { collection_name, alias_name }) => {
            check_name(&alias_name)?;
            if !catalogue.collections.contains_key(&collection_name) {
                let text = format!("Not found: Collection `{collection_name}` doesn't exist!");
                return Err(Status::not_found(text));
            }
            if catalogue.collections.contains_key(&alias_name) {
                let text = format!("Wrong input: Collection `{alias_name}` exists and cannot be an alias");
                return Err(Status::already_exists(text));
            }
            catalogue.aliases.insert(alias_name, collection_name);
        }
        Action::DeleteAlias(DeleteAlias { alias_name }) => {
            catalogue.aliases.remove(&alias_name);
        }
        Action::RenameAlias(RenameAlias { old_alias_name, new_alias_name }) => {
            check_name(&new_alias_name)?;
            let collection = catalogue.aliases.remove(&old_alias_name).ok_or_else(|| {
                Status::not_found(format!("Not found: Alias {old_alias_name} does not exist!"))
            })?;
            catalogue.aliases.insert(new_alias_name, collection);
        }
    }
    Ok(())
}

/// Checks a name by Qdrant's rules.
fn check_name(name: &str) -> Result<(), Status> {
    let forbidden = ['<', '>', ':', '"', '/', '\\', '|', '?', '*', '\0'];
    if name.is_empty() || name.len() > 255 || name.contains(forbidden) {
        return Err(Status::invalid_argument(format!(
            "{name:?} is not a name for a collection: 1 to 255 bytes, none of {forbidden:?}"
        )));
    }
    Ok(())
}
