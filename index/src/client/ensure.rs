//! Lays the collection out, refuses one that does not fit, and reports its state.

use std::sync::Arc;
use std::time::Duration;

use qdrant_client::qdrant::payload_index_params::IndexParams;
use qdrant_client::qdrant::{
    CollectionInfo, CollectionStatus, CreateAlias, CreateFieldIndexCollection, FieldType, IntegerIndexParams,
    IntegerIndexParamsBuilder, KeywordIndexParams, Memory, PayloadIndexParams, TextIndexParamsBuilder,
    TokenizerType, Value, VectorParamsMap, vectors_config,
};

use super::PromptIndex;
use crate::layout::{ENCODER, MINILM, PROFILE};
use crate::{IndexError, Layout, Profile, Space, payload};

/// The result of [`PromptIndex::ensure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensured {
    /// The name of the collection behind the alias.
    pub collection: String,
    /// True if this call created it.
    pub created: bool,
}

/// The progress of indexing the written points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexState {
    /// Everything that needs an index has one.
    Ready,
    /// The graph is being built, or is queued to be.
    Optimising,
    /// The server reports an error for the collection.
    Failed,
}

/// The state of the collection.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexInfo {
    /// The name of the collection behind the alias.
    pub collection: String,
    pub encoder: Option<String>,
    pub minilm: Option<String>,
    pub profile: Profile,
    /// The approximate number of prompts.
    pub points: u64,
    /// The approximate number of vectors in a graph; the others are searched one by one.
    pub indexed_vectors: u64,
    pub segments: u64,
    pub state: IndexState,
    /// True if a bulk load has begun and not finished: no graph is built, and a search compares
    /// with every prompt.
    pub bulk: bool,
    /// The error of the last optimisation.
    pub error: Option<String>,
}

impl PromptIndex {
    /// Ensures that the alias points to a collection of this layout, and creates one if there is
    /// none.
    ///
    /// # Errors
    /// [`IndexError::OtherEncoder`] or [`IndexError::OtherShape`] if the existing collection was
    /// made for another encoder or other vectors.
    pub async fn ensure(&self, layout: &Layout) -> Result<Ensured, IndexError> {
        let collection = layout.collection(&self.options.alias);
        match self.behind_alias().await? {
            Some(found) if found != collection => {
                let alias = self.options.alias.clone();
                return Err(IndexError::OtherEncoder { alias, found, wanted: collection });
            }
            Some(_) => {
                let info = self.collection_info(&collection).await?;
                check_shape(&collection, layout, &info)?;
                self.index_payload(&collection, &info).await?;
                self.remember(layout, profile_of(&info));
                return Ok(Ensured { collection, created: false });
            }
            None => {}
        }
        let (created, profile) = self.ensure_collection(&collection, layout).await?;
        self.switch_alias(&collection).await?;
        self.remember(layout, profile);
        Ok(Ensured { collection, created })
    }

    /// Returns a client of this layout's own collection, created if needed, without touching the
    /// alias.
    ///
    /// With it a new encoder's collection can be filled while the old one serves.
    /// [`PromptIndex::switch_to`] then points the alias to it.
    pub async fn beside(&self, layout: &Layout) -> Result<Self, IndexError> {
        let collection = layout.collection(&self.options.alias);
        let (_, profile) = self.ensure_collection(&collection, layout).await?;
        let beside = self.collection_named(&collection);
        beside.remember(layout, profile);
        Ok(beside)
    }

    /// Returns a client of the collection of this name, whatever the alias points to.
    pub fn collection_named(&self, name: &str) -> Self {
        Self {
            target: name.into(),
            layout: Arc::default(),
            profile: Arc::default(),
            bulk: Arc::default(),
            ..self.clone()
        }
    }

    /// Points the alias to this layout's collection.
    pub async fn switch_to(&self, layout: &Layout) -> Result<(), IndexError> {
        let collection = layout.collection(&self.options.alias);
        check_shape(&collection, layout, &self.collection_info(&collection).await?)?;
        self.switch_alias(&collection).await
    }

    /// Reads the state of the collection.
    pub async fn info(&self) -> Result<IndexInfo, IndexError> {
        let collection = self.collection().await?;
        Ok(index_info(collection.clone(), &self.collection_info(&collection).await?))
    }

    /// The collection's own profile, which says how many candidates a search must request. It is
    /// read once; until there is a collection it is the default.
    pub async fn profile(&self) -> Profile {
        if let Some(known) = self.profile.get() {
            return *known;
        }
        match self.info().await {
            Ok(info) => *self.profile.get_or_init(|| info.profile),
            Err(_) => Profile::default(),
        }
    }

    /// The name of the collection itself, behind the alias or beside it.
    pub(super) async fn collection(&self) -> Result<String, IndexError> {
        Ok(match self.behind_alias().await? {
            Some(found) if *self.target == self.options.alias => found,
            _ => self.target.to_string(),
        })
    }

    /// Waits at most `patience` until everything written is indexed, and returns the state at that
    /// time.
    pub async fn optimize_wait(&self, patience: Duration) -> Result<IndexInfo, IndexError> {
        let end = tokio::time::Instant::now() + patience;
        loop {
            let info = self.info().await?;
            if info.state != IndexState::Optimising || tokio::time::Instant::now() >= end {
                return Ok(info);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn remember(&self, layout: &Layout, profile: Profile) {
        // A second `ensure` of the same client has passed the same checks against the same alias.
        let _ = self.layout.set(layout.clone());
        let _ = self.profile.set(profile);
        if profile != layout.profile {
            tracing::warn!(
                collection = %layout.collection(&self.options.alias),
                %profile,
                configured = %layout.profile,
                "the collection keeps the profile it was made with; `unprompt index optimize --profile` changes it"
            );
        }
    }

    async fn behind_alias(&self) -> Result<Option<String>, IndexError> {
        let answer = self.client.list_aliases().await.map_err(|e| self.error("list aliases", e))?;
        let ours = answer.aliases.into_iter().find(|alias| alias.alias_name == self.options.alias);
        Ok(ours.map(|alias| alias.collection_name))
    }

    async fn ensure_collection(
        &self,
        collection: &str,
        layout: &Layout,
    ) -> Result<(bool, Profile), IndexError> {
        let created = match self.client.create_collection(layout.create(collection)).await {
            Ok(_) => true,
            Err(error) => match IndexError::from_client("create the collection", error) {
                // Another indexer may have created it first.
                error if error.is_existing_collection() => false,
                other => return Err(other),
            },
        };
        let info = self.collection_info(collection).await?;
        check_shape(collection, layout, &info)?;
        self.index_payload(collection, &info).await?;
        Ok((created, profile_of(&info)))
    }

    /// Creates the missing indexes of the fields that filters use.
    async fn index_payload(&self, collection: &str, info: &CollectionInfo) -> Result<(), IndexError> {
        for (field, kind, params) in indexed_fields(profile_of(info)) {
            if info.payload_schema.contains_key(field) {
                continue;
            }
            let request = CreateFieldIndexCollection {
                collection_name: collection.to_owned(),
                wait: Some(true),
                field_name: field.to_owned(),
                field_type: Some(kind.into()),
                field_index_params: params,
                ..Default::default()
            };
            self.client.create_field_index(request).await.map_err(|e| self.error("index the payload", e))?;
        }
        Ok(())
    }

    /// Points the alias to `collection`. Qdrant replaces an existing alias of that name atomically.
    async fn switch_alias(&self, collection: &str) -> Result<(), IndexError> {
        let alias_name = self.options.alias.clone();
        let request = CreateAlias { collection_name: collection.to_owned(), alias_name };
        self.client.create_alias(request).await.map_err(|e| self.error("switch the alias", e))?;
        Ok(())
    }

    pub(super) async fn collection_info(&self, collection: &str) -> Result<CollectionInfo, IndexError> {
        let answer = self
            .client
            .collection_info(collection)
            .await
            .map_err(|e| self.error("describe the collection", e))?;
        answer.result.ok_or_else(|| IndexError::NoCollection { alias: collection.to_owned() })
    }
}

/// The fields that filters use. Times, lengths and words get no extra links in the graph: links
/// between prompts of the same time or length would cost more to build than they save.
fn indexed_fields(profile: Profile) -> [(&'static str, FieldType, Option<PayloadIndexParams>); 4] {
    let integer = || IntegerIndexParamsBuilder::new(false, true).enable_hnsw(false);
    let memory = profile.field_indexes().map(Into::into);
    let sources = IndexParams::KeywordIndexParams(KeywordIndexParams { memory, ..Default::default() });
    let created_at = IntegerIndexParams { memory, ..integer().build() };
    let words = TextIndexParamsBuilder::new(TokenizerType::Word).lowercase(true).phrase_matching(true);
    [
        (payload::SOURCES, FieldType::Keyword, Some(sources.into())),
        (payload::CREATED_AT, FieldType::Integer, Some(created_at.into())),
        (payload::LENGTH, FieldType::Integer, Some(integer().memory(Memory::Cold).build().into())),
        (payload::TEXT, FieldType::Text, Some(words.enable_hnsw(false).memory(Memory::Cold).build().into())),
    ]
}

fn check_shape(collection: &str, layout: &Layout, info: &CollectionInfo) -> Result<(), IndexError> {
    let refuse = |detail: String| Err(IndexError::OtherShape { collection: collection.to_owned(), detail });
    let sizes = vector_sizes(info);
    for space in [Space::Clip, Space::MiniLm] {
        let (name, wanted) = (space.name(), layout.dim(space) as u64);
        match sizes.as_ref().and_then(|sizes| sizes.map.get(name)).map(|params| params.size) {
            Some(found) if found == wanted => {}
            Some(found) => {
                return refuse(format!("its vector {name:?} has {found} values where {wanted} are needed"));
            }
            None => return refuse(format!("it has no vector {name:?}")),
        }
    }
    for (key, wanted) in [(ENCODER, &layout.encoder), (MINILM, &layout.minilm)] {
        match metadata(info, key) {
            Some(found) if found != *wanted => {
                return refuse(format!("it was made for the model {found}, this configuration has {wanted}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn vector_sizes(info: &CollectionInfo) -> Option<VectorParamsMap> {
    let params = info.config.as_ref()?.params.as_ref()?;
    match params.vectors_config.as_ref()?.config.as_ref()? {
        vectors_config::Config::ParamsMap(map) => Some(map.clone()),
        vectors_config::Config::Params(_) => None,
    }
}

/// A collection from before there were profiles is balanced.
pub(super) fn profile_of(info: &CollectionInfo) -> Profile {
    metadata(info, PROFILE).and_then(|name| name.parse().ok()).unwrap_or_default()
}

pub(super) fn index_info(collection: String, info: &CollectionInfo) -> IndexInfo {
    let optimizers = info.config.as_ref().and_then(|config| config.optimizer_config);
    let failure = info.optimizer_status.as_ref().filter(|status| !status.ok);
    IndexInfo {
        collection,
        encoder: metadata(info, ENCODER),
        minilm: metadata(info, MINILM),
        profile: profile_of(info),
        points: info.points_count.unwrap_or_default(),
        indexed_vectors: info.indexed_vectors_count.unwrap_or_default(),
        segments: info.segments_count,
        state: match info.status() {
            CollectionStatus::Green => IndexState::Ready,
            CollectionStatus::Red => IndexState::Failed,
            _ => IndexState::Optimising,
        },
        bulk: optimizers.and_then(|optimizers| optimizers.indexing_threshold) == Some(0),
        error: failure.map(|status| status.error.clone()),
    }
}

fn metadata(info: &CollectionInfo, key: &str) -> Option<String> {
    let value: &Value = info.config.as_ref()?.metadata.get(key)?;
    value.as_str().cloned()
}
