//! Recovery of consumer groups after the broker was killed: keeps committed offsets, removes
//! members.

use nisshi_storage::{GroupDetail, Storage};

use crate::EmbeddedBrokerError;
use crate::quick_storage::QuickStorage;

/// Removes the members of all groups. Most of them were killed with the broker, and a new member
/// would have to wait until their sessions time out. A member that is still alive in another
/// process gets an error and rejoins.
pub(crate) async fn forget_members(storage: &QuickStorage) -> Result<(), EmbeddedBrokerError> {
    for group in storage.list_groups().await.map_err(EmbeddedBrokerError::storage)? {
        let Some((detail, version)) =
            storage.group_with_version(&group.name).await.map_err(EmbeddedBrokerError::storage)?
        else {
            continue;
        };
        if detail.members.is_empty() {
            continue;
        }
        let emptied = GroupDetail { generation_id: detail.generation_id, ..GroupDetail::default() };
        storage
            .update_group(&group.name, emptied, Some(version))
            .await
            .map_err(|error| EmbeddedBrokerError::storage(format!("{error:?}")))?;
        tracing::debug!(group = group.name, "members of the last run forgotten");
    }
    Ok(())
}
