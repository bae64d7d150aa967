//! What a view is: columns, masks, conditions and their evaluation.
