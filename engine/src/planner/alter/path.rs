//! From the path of a column to the column.

use skep_catalog::{Column, KEY, LakeType};
use skep_common::{Error, Result};

use crate::planner::{clauses, tables};
use crate::sql::ColumnPath;

/// The column at `path`.
pub(super) fn find<'a>(columns: &'a mut [Column], path: &ColumnPath) -> Result<&'a mut Column> {
    let place = |e: Error| tables::placed(e, path.at);
    let (first, rest) = path.parts.split_first().ok_or_else(|| Error::internal("a column path is empty"))?;
    let Some(at) = columns.iter().position(|column| column.name == *first) else {
        return Err(place(clauses::missing(columns, first)));
    };
    let mut column = &mut columns[at];
    for part in rest {
        let Some(at) = column.children.iter().position(|child| child.name == *part) else {
            let error = Error::not_found(format!("column '{}' has no field '{part}'", column.name));
            let known = column.children.iter().map(|child| child.name.as_str());
            return Err(place(match known.clone().count() {
                0 => error.hint(format!("it is {}", clauses::type_name(column))),
                _ => error.hint(format!("it has {}", known.collect::<Vec<_>>().join(", "))),
            }));
        };
        column = &mut column.children[at];
    }
    Ok(column)
}

/// Where the column at `path` stands or would stand. Inside a column that is the fields of a struct.
pub(super) fn siblings<'a>(columns: &'a mut Vec<Column>, path: &ColumnPath) -> Result<&'a mut Vec<Column>> {
    let Some((_, parents)) = path.parts.split_last().filter(|(_, parents)| !parents.is_empty()) else {
        return Ok(columns);
    };
    let place = |e: Error| tables::placed(e, path.at);
    let parent = ColumnPath { parts: parents.to_vec(), at: path.at };
    let column = find(columns, &parent)?;
    if column.ty != LakeType::Struct {
        return Err(place(
            Error::invalid(format!(
                "'{parent}' is {}, and only a STRUCT has fields",
                clauses::type_name(column)
            ))
            .hint("the struct in a list is its 'element', as in tags.element.name"),
        ));
    }
    Ok(&mut column.children)
}

/// The map of whose keys the column at `path` is or would be a part.
pub(super) fn map_by_key(columns: &mut [Column], path: &ColumnPath) -> Result<Option<ColumnPath>> {
    for depth in 1..path.parts.len() {
        let upto = ColumnPath { parts: path.parts[..depth].to_vec(), at: path.at };
        if path.parts[depth] == KEY && find(columns, &upto)?.ty == LakeType::Map {
            return Ok(Some(upto));
        }
    }
    Ok(None)
}

pub(super) fn in_struct(columns: &mut [Column], path: &ColumnPath) -> Result<bool> {
    let parents = path.parts.split_last().map(|(_, parents)| parents.to_vec()).unwrap_or_default();
    Ok(find(columns, &ColumnPath { parts: parents, at: path.at })?.ty == LakeType::Struct)
}

/// Gives a column and what is inside it ids from `next` on, and returns the next.
pub(super) fn renumber(column: &mut Column, next: i64) -> i64 {
    column.id = next;
    column.children.iter_mut().fold(next + 1, |next, child| renumber(child, next))
}
