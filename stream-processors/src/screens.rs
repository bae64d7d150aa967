//! Which views a new row cannot be in, without asking each: a table may have hundreds of views, and
//! most rows are in few of them. What is looked at lies side by side.

use hutong_policies::condition::Screen;
use hutong_schemas::position::SchemaId;

use crate::shared::Shared;
use crate::view::{Row, View};

/// What a row must have to be in each view, by the rows' schemas, of which there are few.
#[derive(Debug, Default)]
pub(crate) struct Screens {
    by_schema: Vec<(SchemaId, Vec<Option<Screen>>)>,
}

impl Screens {
    /// Forgets all views.
    pub(crate) fn clear(&mut self) {
        self.by_schema.clear();
    }

    /// Returns the screens of all views for a row's schema, in their order.
    pub(crate) fn of(
        &mut self,
        row: &Row<'_>,
        views: &mut [View],
        secret: Option<&[u8]>,
        shared: &mut Shared,
    ) -> &[Option<Screen>] {
        let mut known = self.by_schema.iter();
        let known = known.position(|(schema, _)| *schema == row.schema);
        let index = known.unwrap_or_else(|| {
            let screens = views
                .iter_mut()
                .map(|view| view.screen(row.schema, row.columns, secret, shared));
            self.by_schema.push((row.schema, screens.collect()));
            self.by_schema.len() - 1
        });
        &self.by_schema[index].1
    }
}
