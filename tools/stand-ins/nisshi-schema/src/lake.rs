//! Lake houses, which do not exist here.

use nisshi_sans_io::describe_configs_response::DescribeConfigsResult;
use nisshi_sans_io::record::inflated::Batch;

use crate::Result;

#[derive(Clone, Debug)]
pub enum House {}

#[derive(Clone, Copy, Debug)]
pub enum LakeHouseType {}

impl From<&House> for LakeHouseType {
    fn from(house: &House) -> Self {
        match *house {}
    }
}

pub trait LakeHouse {
    fn store(
        &self,
        topic: &str,
        partition: i32,
        offset: i64,
        inflated: &Batch,
        config: DescribeConfigsResult,
    ) -> impl Future<Output = Result<()>> + Send;

    fn maintain(&self) -> impl Future<Output = Result<()>> + Send;
}

impl LakeHouse for House {
    async fn store(&self, _: &str, _: i32, _: i64, _: &Batch, _: DescribeConfigsResult) -> Result<()> {
        match *self {}
    }

    async fn maintain(&self) -> Result<()> {
        match *self {}
    }
}
