//! Gathers all pages of a list into one.

use std::num::NonZeroU32;

use lattice_gateway::proto::Revision;

use crate::failure::CallError;

/// The most that the API gives in one page.
const PAGE_SIZE_MAX: usize = 1000;

/// Items of a list, and how it goes on.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Empty at the end of the list.
    pub(crate) next_page_token: String,
    /// Of several pages, the first one's: the others are no older.
    pub(crate) revision: Option<Revision>,
}

/// Asks for a page.
#[derive(Debug)]
pub(crate) struct PageRequest {
    pub(crate) size: i32,
    pub(crate) token: String,
}

/// Fetches pages until the list ends or there are `limit` items.
pub(crate) async fn all<T>(
    limit: Option<NonZeroU32>,
    fetch: impl AsyncFn(&PageRequest) -> Result<Page<T>, CallError>,
) -> Result<Page<T>, CallError> {
    let mut all = Page {
        items: Vec::new(),
        next_page_token: String::new(),
        revision: None,
    };
    while let Some(size) = size(limit, all.items.len()) {
        let token = all.next_page_token;
        let page = fetch(&PageRequest { size, token }).await?;
        all.items.extend(page.items);
        all.revision = all.revision.or(page.revision);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            break;
        }
    }
    Ok(all)
}

/// The size of the next page; none once the limit is reached.
fn size(limit: Option<NonZeroU32>, have: usize) -> Option<i32> {
    let limit = limit.and_then(|limit| usize::try_from(limit.get()).ok());
    let left = limit.map_or(PAGE_SIZE_MAX, |limit| limit.saturating_sub(have));
    let size = i32::try_from(left.min(PAGE_SIZE_MAX)).ok()?;
    (size > 0).then_some(size)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const LENGTH: i32 = 2500;

    /// Lists the numbers up to `LENGTH` under `limit`; gives the sizes asked for and the result.
    async fn list(limit: u32) -> (Vec<i32>, Page<i32>) {
        let sizes = RefCell::new(Vec::new());
        let page = all(NonZeroU32::new(limit), async |request| {
            sizes.borrow_mut().push(request.size);
            let start: i32 = request.token.parse().unwrap_or(0);
            let end = LENGTH.min(start + request.size);
            Ok(Page {
                items: (start..end).collect(),
                next_page_token: if end == LENGTH {
                    String::new()
                } else {
                    end.to_string()
                },
                revision: Some(Revision {
                    epoch: 1,
                    sequence: u64::try_from(end).unwrap(),
                }),
            })
        });
        let page = page.await.unwrap();
        (sizes.into_inner(), page)
    }

    #[tokio::test]
    async fn a_list_is_all_of_its_pages_and_as_old_as_its_first() {
        let (sizes, page) = list(0).await;
        assert_eq!(sizes, [1000, 1000, 1000]);
        assert_eq!(page.items, (0..LENGTH).collect::<Vec<_>>());
        assert_eq!(page.next_page_token, "");
        assert_eq!(page.revision.map(|it| it.sequence), Some(1000));
    }

    #[tokio::test]
    async fn a_limit_ends_a_list_early_and_keeps_the_way_on() {
        let (sizes, page) = list(1200).await;
        assert_eq!(sizes, [1000, 200]);
        assert_eq!(page.items.len(), 1200);
        assert_eq!(page.next_page_token, "1200");
        let (sizes, page) = list(5).await;
        assert_eq!((sizes, page.items.len()), (vec![5], 5));
    }
}
