//! The body of a bulk request, built once and sent in whole or in part.

use std::borrow::Cow;

use serde::Deserialize;

/// Documents on their way to `_bulk`, as the request body they become.
#[derive(Debug, Default)]
pub struct BulkBody {
    bytes: Vec<u8>,
    /// Where each item ends; it starts where the one before ended.
    ends: Vec<usize>,
}

impl BulkBody {
    /// Returns an empty body.
    pub fn new() -> BulkBody {
        BulkBody::default()
    }

    /// Empties the body and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Opens an item and returns the buffer to append the document to; [`end`](BulkBody::end)
    /// closes it.
    ///
    /// The document is one JSON object on one line. An `id` of more than 512 bytes is rejected
    /// by Elasticsearch, at the price of some extra requests.
    pub fn begin(&mut self, index: &str, id: &str) -> &mut Vec<u8> {
        self.bytes.extend_from_slice(br#"{"create":{"_index":"#);
        append_string(&mut self.bytes, index);
        self.bytes.extend_from_slice(br#","_id":"#);
        append_string(&mut self.bytes, id);
        self.bytes.extend_from_slice(b"}}\n");
        &mut self.bytes
    }

    /// Closes the item that [`begin`](BulkBody::begin) opened.
    pub fn end(&mut self) {
        self.bytes.push(b'\n');
        self.ends.push(self.bytes.len());
        debug_assert_eq!(
            memchr::memchr_iter(b'\n', self.item(self.ends.len() - 1)).count(),
            2,
            "an item is two lines"
        );
    }

    /// Size of the request body in bytes.
    #[expect(clippy::len_without_is_empty, reason = "n_items says it")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The whole body, two lines an item.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many items were closed.
    pub fn n_items(&self) -> usize {
        self.ends.len()
    }

    fn start(&self, item: usize) -> usize {
        if item == 0 { 0 } else { self.ends[item - 1] }
    }

    pub(super) fn item(&self, item: usize) -> &[u8] {
        &self.bytes[self.start(item)..self.ends[item]]
    }

    pub(super) fn len_of(&self, items: &[usize]) -> usize {
        items.iter().map(|&item| self.item(item).len()).sum()
    }

    /// Returns the request body of `items`, which ascend: where it lies if they are neighbours,
    /// else copied to `scratch`.
    pub(super) fn gather<'a>(&'a self, items: &[usize], scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let (Some(&first), Some(&last)) = (items.first(), items.last()) else {
            return &[];
        };
        if last - first + 1 == items.len() {
            return &self.bytes[self.start(first)..self.ends[last]];
        }
        scratch.clear();
        for &item in items {
            scratch.extend_from_slice(self.item(item));
        }
        scratch
    }

    /// Cuts `items` into runs of at most `len_max` bytes; a larger item stands alone.
    pub(super) fn split(&self, items: &[usize], len_max: usize) -> Vec<Vec<usize>> {
        let mut parts: Vec<Vec<usize>> = Vec::new();
        let mut len = 0;
        for &item in items {
            let item_len = self.item(item).len();
            match parts.last_mut() {
                Some(part) if len + item_len <= len_max => {
                    part.push(item);
                    len += item_len;
                }
                _ => {
                    parts.push(vec![item]);
                    len = item_len;
                }
            }
        }
        parts
    }

    /// Returns the index that an item was meant for.
    pub(super) fn index_of(&self, item: usize) -> String {
        #[derive(Deserialize)]
        struct Action<'a> {
            #[serde(borrow)]
            create: Target<'a>,
        }
        #[derive(Deserialize)]
        struct Target<'a> {
            #[serde(borrow)]
            _index: Cow<'a, str>,
        }
        let mut actions = serde_json::Deserializer::from_slice(self.item(item));
        let action = Action::deserialize(&mut actions).expect("begin() wrote the action line");
        action.create._index.into_owned()
    }
}

fn append_string(bytes: &mut Vec<u8>, string: &str) {
    serde_json::to_writer(bytes, string).expect("writing to memory does not fail");
}
