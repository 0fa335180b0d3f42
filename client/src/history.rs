//! The job history, page by page.

use crate::client::Client;
use crate::error::Error;
use serde_json::{Map, Value};

/// One page of records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistoryPage {
    /// The records, newest first, as the job file has them.
    pub records: Vec<Value>,
    /// Where the next page begins; `None` on the last one.
    pub cursor: Option<String>,
}

impl HistoryPage {
    pub(crate) fn from_reply(mut reply: Value) -> Option<HistoryPage> {
        let records = match reply.get_mut("records")?.take() {
            Value::Array(records) => records,
            _ => return None,
        };
        Some(HistoryPage { records, cursor: reply["cursor"].as_str().map(str::to_owned) })
    }
}

/// Pages of one filter, each asked for when it is wanted.
#[derive(Debug)]
pub struct HistoryPages {
    client: Client,
    filter: Map<String, Value>,
    ended: bool,
}

impl HistoryPages {
    pub(crate) fn new(client: Client, filter: Map<String, Value>) -> HistoryPages {
        HistoryPages { client, filter, ended: false }
    }

    /// The next page; `None` after the last one.
    ///
    /// # Errors
    /// As every call.
    pub async fn next(&mut self) -> Result<Option<HistoryPage>, Error> {
        if self.ended {
            return Ok(None);
        }
        let page = self.client.history(&self.filter).await?;
        match &page.cursor {
            Some(cursor) => {
                self.filter.insert("cursor".to_owned(), Value::String(cursor.clone()));
            }
            None => self.ended = true,
        }
        Ok(Some(page))
    }
}
