//! The collections of a data directory, their names and their folders.
//!
//! `catalogue.json` is the source of truth. A collection is stored in `collections/<uuid>`. A crash
//! during a creation or a deletion leaves a folder that is not in the catalogue; the next start
//! removes it.

mod catalogue;
mod folder;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use qdrant_client::qdrant::alias_operations::Action;
use qdrant_client::qdrant::{CollectionConfig, CreateAlias, DeleteAlias, RenameAlias};
use tonic::Status;
use uuid::Uuid;

use self::catalogue::{Catalogue, CatalogueEntry};
use self::folder::DataFolder;
use crate::EmbeddedIndexError;
use crate::faults::Faults;
use crate::shard::Shard;

/// The open collections of a data directory, which this process holds exclusively.
#[derive(Debug)]
pub(crate) struct CollectionStore {
    folder: DataFolder,
    /// Serialises changes to the catalogue, which write a file. Readers only lock `state`.
    changes: Mutex<()>,
    state: RwLock<StoreState>,
    faults: Faults,
}

#[derive(Debug, Default)]
struct StoreState {
    catalogue: Catalogue,
    shards: HashMap<String, Arc<Shard>>,
}

impl CollectionStore {
    /// Opens every collection in `path`. Creates the folder if it is missing. Blocks while logs are
    /// replayed.
    ///
    /// Threads of collections that end unexpectedly are reported to `faults`.
    pub fn open(path: &Path, faults: Faults) -> Result<Self, EmbeddedIndexError> {
        let folder = DataFolder::open(path)?;
        let catalogue = folder.read_catalogue()?;
        folder.sweep(&catalogue)?;
        let mut shards = HashMap::new();
        for (name, entry) in &catalogue.collections {
            let config = folder.config_of(name, entry)?;
            let at = folder.collection(entry.folder);
            let shard = Shard::load(name, &at, config, false, &faults)
                .map_err(|status| EmbeddedIndexError::damaged(&at, status.message()))?;
            shards.insert(name.clone(), Arc::new(shard));
        }
        let state = RwLock::new(StoreState { catalogue, shards });
        Ok(Self { folder, changes: Mutex::default(), state, faults })
    }

    /// Looks up a collection by name or alias.
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

    /// Creates a collection. Blocks.
    pub fn create(&self, name: &str, config: CollectionConfig) -> Result<(), Status> {
        check_name(name)?;
        let _change = self.changes.lock();
        if self.state.read().catalogue.knows(name) {
            return Err(Status::already_exists(format!("Wrong input: Collection `{name}` already exists!")));
        }
        let entry = CatalogueEntry::new(Uuid::new_v4(), &config);
        let at = self.folder.collection(entry.folder);
        let shard = match Shard::create(name, &at, config, &self.faults) {
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

    /// Removes a collection and its aliases. Returns false if there is no such collection. Blocks
    /// until its threads have ended, so that nothing writes to the folder while it is removed.
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

    /// Changes a collection's configuration. Blocks. If the change cannot be made while the
    /// collection is open, the collection is closed briefly and requests return UNAVAILABLE
    /// meanwhile.
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

    /// Closes a collection and reopens it with a new configuration, or with its old one if that
    /// fails. Its segments converge to the new configuration as they are optimised.
    fn reopen(&self, shard: &Shard, config: &CollectionConfig) -> Result<Arc<Shard>, Status> {
        Shard::check(config)?;
        let name = shard.name();
        let entry = self.state.read().catalogue.collections.get(name).cloned();
        let entry = entry
            .ok_or_else(|| Status::not_found(format!("Not found: Collection `{name}` doesn't exist!")))?;
        let at = self.folder.collection(entry.folder);
        shard.stop(Duration::MAX);
        let opened = Shard::load(name, &at, config.clone(), true, &self.faults);
        let (reopened, error) = match opened {
            Ok(reopened) => (reopened, None),
            Err(error) => (Shard::load(name, &at, shard.config(), false, &self.faults)?, Some(error)),
        };
        let reopened = Arc::new(reopened);
        self.state.write().shards.insert(name.to_owned(), Arc::clone(&reopened));
        error.map_or(Ok(reopened), Err)
    }

    /// Applies either all alias changes or none. Blocks.
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

    /// Flushes all collections and ends all threads. Waits up to `grace` for a running
    /// optimisation. If it is interrupted, the next start finds the state before it.
    pub fn stop(&self, grace: Duration) {
        let shards: Vec<_> = self.state.write().shards.drain().map(|(_, shard)| shard).collect();
        let closed: Vec<bool> = shards.into_iter().map(|shard| shard.stop(grace)).collect();
        if closed.into_iter().all(|closed| closed) {
            self.folder.release();
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

/// Checks a collection or alias name against Qdrant's rules.
fn check_name(name: &str) -> Result<(), Status> {
    let forbidden = ['<', '>', ':', '"', '/', '\\', '|', '?', '*', '\0'];
    if name.is_empty() || name.len() > 255 || name.contains(forbidden) {
        return Err(Status::invalid_argument(format!(
            "{name:?} is not a name for a collection: 1 to 255 bytes, none of {forbidden:?}"
        )));
    }
    Ok(())
}
