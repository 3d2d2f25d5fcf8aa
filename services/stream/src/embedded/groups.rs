//! Consumer groups after a broker was killed: committed offsets stay, members do not.

use nisshi_storage::{GroupDetail, Storage};

use super::failed;
use super::quick_storage::QuickStorage;
use crate::StreamError;

/// Forgets the members that groups had. Most were of the process that was killed with the broker; left in place, a
/// new member would wait until their session timed out. One that lives on elsewhere is told, and joins again.
pub(super) async fn forget_members(storage: &QuickStorage) -> Result<(), StreamError> {
    for group in storage.list_groups().await.map_err(failed)? {
        let Some((detail, version)) = storage.group_with_version(&group.name).await.map_err(failed)? else {
            continue;
        };
        if detail.members.is_empty() {
            continue;
        }
        let emptied = GroupDetail { generation_id: detail.generation_id, ..GroupDetail::default() };
        storage
            .update_group(&group.name, emptied, Some(version))
            .await
            .map_err(|e| failed(format!("{e:?}")))?;
        tracing::debug!(group = group.name, "members of the last run forgotten");
    }
    Ok(())
}
