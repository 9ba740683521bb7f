//! The public interface of the crates that firmware is built on, as a text beside each: `api.txt`. A test holds the text to
//! the sources, so that no change of the interface goes unseen; `cargo xtask api` writes it anew.
//!
//! It is read off the sources, which needs no compiler of a certain version: what is `pub` in a module that can be named from
//! outside, what `pub use` brings out of the others, and the methods and traits of such types. A line is a signature.

use crate::command::root;
use anyhow::{Context, Result, anyhow};
use proc_macro2::Span;
use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::{Attribute, Fields, Ident, ImplItem, Item, ItemMod, UseTree, Visibility};

/// Folders of the crates.
const CRATES: &[&str] = &["core", "store", "sensor", "sign"];

/// Writes every text anew.
pub fn write() -> Result<bool> {
    for folder in CRATES {
        let path = root().join(folder).join("api.txt");
        bitttt_export::save_atomically(&path, text(folder)?.as_bytes())?;
        eprintln!("wrote {}", path.display());
    }
    Ok(true)
}

/// The interface of a crate, a signature a line, sorted.
fn text(folder: &str) -> Result<String> {
    let source = root().join(folder).join("src");
    let mut modules = Vec::new();
    read(&source.join("lib.rs"), &source, "", true, &mut modules)?;
    let mut api = Api::default();
    for module in &modules {
        module.items().for_each(|item| api.note_uses(item));
    }
    for module in &modules {
        module.items().for_each(|item| api.note_type(module, item));
    }
    for module in &modules {
        module.items().for_each(|item| api.add(module, item));
    }
    let lines: Vec<_> = api.lines.into_iter().collect();
    Ok(lines.join("\n") + "\n")
}

/// A module: where it is, whether it can be named from outside, its file's text and its part of it.
struct Module {
    path: String,
    is_public: bool,
    text: String,
    items: Vec<Item>,
}

impl Module {
    fn items(&self) -> impl Iterator<Item = &Item> {
        self.items
            .iter()
            .filter(|item| !is_left_out(attributes(item)))
    }

    /// The source from one place to another on one line.
    fn source(&self, from: Span, to: Span) -> String {
        let bytes = from.byte_range().start..to.byte_range().end;
        let words: Vec<_> = self.text[bytes].split_whitespace().collect();
        words
            .join(" ")
            .replace("( ", "(")
            .replace(", )", ")")
            .replace(" )", ")")
    }
}

/// A file and the modules that it names.
fn read(
    file: &Path,
    folder: &Path,
    path: &str,
    is_public: bool,
    to: &mut Vec<Module>,
) -> Result<()> {
    let text = read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let parsed = syn::parse_file(&text).map_err(|fault| anyhow!("{}: {fault}", file.display()))?;
    module(parsed.items, &text, folder, path, is_public, to)
}

fn module(
    items: Vec<Item>,
    text: &str,
    folder: &Path,
    path: &str,
    is_public: bool,
    to: &mut Vec<Module>,
) -> Result<()> {
    let mut kept = Vec::new();
    for item in items {
        let Item::Mod(inner) = item else {
            kept.push(item);
            continue;
        };
        if is_left_out(&inner.attrs) {
            continue;
        }
        let inner_path = format!("{path}{}::", inner.ident);
        let is_public = is_public && is_pub(&inner.vis);
        let folder = folder.join(inner.ident.to_string());
        let file = file_of(&inner, &folder);
        match inner.content {
            Some((_, items)) => module(items, text, &folder, &inner_path, is_public, to)?,
            None => read(&file, &folder, &inner_path, is_public, to)?,
        }
    }
    to.push(Module {
        path: path.to_owned(),
        is_public,
        text: text.to_owned(),
        items: kept,
    });
    Ok(())
}

fn file_of(module: &ItemMod, folder: &Path) -> PathBuf {
    let inside = folder.join("mod.rs");
    match inside.is_file() {
        true => inside,
        false => folder.with_file_name(format!("{}.rs", module.ident)),
    }
}

#[derive(Default)]
struct Api {
    /// Names that a `pub use` brings out.
    used: BTreeSet<String>,
    /// Types and traits that can be named from outside.
    types: BTreeSet<String>,
    lines: BTreeSet<String>,
}

impl Api {
    fn note_uses(&mut self, item: &Item) {
        if let Item::Use(item) = item
            && is_pub(&item.vis)
        {
            names(&item.tree, &mut self.used);
        }
    }

    fn note_type(&mut self, module: &Module, item: &Item) {
        let (vis, name) = match item {
            Item::Enum(item) => (&item.vis, &item.ident),
            Item::Struct(item) => (&item.vis, &item.ident),
            Item::Trait(item) => (&item.vis, &item.ident),
            _ => return,
        };
        if self.is_named(module, vis, &name.to_string()) {
            self.types.insert(name.to_string());
        }
    }

    fn is_named(&self, module: &Module, vis: &Visibility, name: &str) -> bool {
        is_pub(vis) && (module.is_public || self.used.contains(name))
    }

    fn add(&mut self, module: &Module, item: &Item) {
        match item {
            Item::Const(i) => drop(self.name(module, &i.vis, &i.ident, i.expr.span())),
            Item::Static(i) => drop(self.name(module, &i.vis, &i.ident, i.ty.span())),
            Item::Type(i) => drop(self.name(module, &i.vis, &i.ident, i.ty.span())),
            Item::Fn(i) => drop(self.name(module, &i.vis, &i.sig.ident, i.sig.span())),
            Item::Use(i) if is_pub(&i.vis) && module.is_public => {
                self.line(module, i.span(), i.span())
            }
            Item::Enum(i) => self.enumeration(module, i),
            Item::Struct(i) => self.structure(module, i),
            Item::Trait(i) => self.interface(module, i),
            Item::Impl(i) => self.implementation(module, i),
            _ => {}
        }
    }

    /// The source from one place to another.
    fn line(&mut self, module: &Module, from: Span, to: Span) {
        let line = format!("{}{}", module.path, module.source(from, to));
        self.lines.insert(line);
    }

    /// A name with what stands before it and up to `end`, if it can be named from outside.
    fn name(&mut self, module: &Module, vis: &Visibility, name: &Ident, end: Span) -> bool {
        let named = self.is_named(module, vis, &name.to_string());
        if named {
            self.line(module, vis.span(), end);
        }
        named
    }

    fn enumeration(&mut self, module: &Module, item: &syn::ItemEnum) {
        if !self.name(
            module,
            &item.vis,
            &item.ident,
            end_of(&item.ident, &item.generics),
        ) {
            return;
        }
        self.attributes(module, &item.ident, &item.attrs);
        for variant in &item.variants {
            let fields: Vec<_> = variant
                .fields
                .iter()
                .map(|field| shown(module, field))
                .collect();
            let fields = match variant.fields {
                Fields::Unit => String::new(),
                Fields::Named(_) => format!(" {{ {} }}", fields.join(", ")),
                Fields::Unnamed(_) => format!("({})", fields.join(", ")),
            };
            self.lines.insert(format!(
                "{}{}::{}{fields}",
                module.path, item.ident, variant.ident
            ));
        }
    }

    fn structure(&mut self, module: &Module, item: &syn::ItemStruct) {
        if !self.name(
            module,
            &item.vis,
            &item.ident,
            end_of(&item.ident, &item.generics),
        ) {
            return;
        }
        self.attributes(module, &item.ident, &item.attrs);
        for field in item.fields.iter().filter(|field| is_pub(&field.vis)) {
            self.lines.insert(format!(
                "{}{}.{}",
                module.path,
                item.ident,
                shown(module, field)
            ));
        }
    }

    fn interface(&mut self, module: &Module, item: &syn::ItemTrait) {
        let own = end_of(&item.ident, &item.generics);
        let end = item.supertraits.last().map_or(own, Spanned::span);
        if !self.name(module, &item.vis, &item.ident, end) {
            return;
        }
        for part in &item.items {
            let span = match part {
                syn::TraitItem::Fn(function) => function.sig.span(),
                other => other.span(),
            };
            let part = module.source(span, span);
            self.lines
                .insert(format!("{}{}::{part}", module.path, item.ident));
        }
    }

    /// Traits derived, and whether more may come.
    fn attributes(&mut self, module: &Module, name: &Ident, attributes: &[Attribute]) {
        for attribute in attributes {
            if ["derive", "non_exhaustive", "repr"]
                .iter()
                .any(|a| attribute.path().is_ident(a))
            {
                let text = module.source(attribute.span(), attribute.span());
                self.lines.insert(format!("{}{name} {text}", module.path));
            }
        }
    }

    /// Of a type that can be named: its public functions, or the trait that it has.
    fn implementation(&mut self, module: &Module, item: &syn::ItemImpl) {
        let syn::Type::Path(of) = &*item.self_ty else {
            return;
        };
        let Some(name) = of.path.segments.last().map(|s| s.ident.to_string()) else {
            return;
        };
        if !self.types.contains(&name) {
            return;
        }
        let head = module.source(item.impl_token.span(), item.self_ty.span());
        if item.trait_.is_some() {
            self.lines.insert(format!("{}{head}", module.path));
            return;
        }
        for part in &item.items {
            let (vis, attributes, end) = match part {
                ImplItem::Fn(i) => (&i.vis, &i.attrs, i.sig.span()),
                ImplItem::Const(i) => (&i.vis, &i.attrs, i.expr.span()),
                _ => continue,
            };
            if is_pub(vis) && !is_left_out(attributes) {
                let part = module.source(vis.span(), end);
                self.lines.insert(format!("{}{head}: {part}", module.path));
            }
        }
    }
}

/// The last of a type's name.
fn end_of(name: &Ident, generics: &syn::Generics) -> Span {
    match generics.params.is_empty() {
        true => name.span(),
        false => generics.span(),
    }
}

/// A field without its documentation.
fn shown(module: &Module, field: &syn::Field) -> String {
    let of = module.source(field.ty.span(), field.ty.span());
    match &field.ident {
        Some(name) => format!("{name}: {of}"),
        None => of,
    }
}

fn is_pub(vis: &Visibility) -> bool {
    matches!(vis, Visibility::Public(_))
}

/// Tests, and what is no part of the interface.
fn is_left_out(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let text = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => return false,
        };
        let hidden = attribute.path().is_ident("doc") && text == "hidden";
        hidden || (attribute.path().is_ident("cfg") && matches!(text.as_str(), "test" | "doctest"))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

fn names(tree: &UseTree, to: &mut BTreeSet<String>) {
    match tree {
        UseTree::Path(path) => names(&path.tree, to),
        UseTree::Name(name) => drop(to.insert(name.ident.to_string())),
        UseTree::Rename(name) => drop(to.insert(name.ident.to_string())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| names(tree, to)),
        UseTree::Glob(_) => {}
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn the_interface_is_what_its_text_says() {
        for folder in CRATES {
            let kept = read_to_string(root().join(folder).join("api.txt")).unwrap_or_default();
            let found = text(folder).unwrap();
            let [kept, found]: [BTreeSet<&str>; 2] =
                [kept.lines().collect(), found.lines().collect()];
            let gone: Vec<_> = kept
                .difference(&found)
                .map(|line| format!("- {line}"))
                .collect();
            let new: Vec<_> = found
                .difference(&kept)
                .map(|line| format!("+ {line}"))
                .collect();
            assert!(
                gone.is_empty() && new.is_empty(),
                "the interface of {folder} changed; lines that are gone break somebody's build: raise the version, then write \
                 the text with `cargo xtask api`\n{}\n{}",
                gone.join("\n"),
                new.join("\n")
            );
        }
    }

    #[test]
    fn what_is_private_hidden_or_a_test_is_no_part_of_it() {
        let core = text("core").unwrap();
        for part in [
            "pub fn step(&mut self, token: u32) -> Result<&mut [f32], SessionError>",
            "SnapshotError::Position",
        ] {
            assert!(core.contains(part), "{part} is missing");
        }
        for part in ["pub(crate)", "#[cfg(test)]", "avx2", "probe", "Workspace"] {
            assert!(!core.contains(part), "{part}");
        }
    }
}
