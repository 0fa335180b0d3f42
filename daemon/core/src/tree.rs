//! The configuration: a persistent tree with a hash and a revision at every node (ruling 13).
//!
//! Cloning is a pointer copy and a change costs its path, not the tree: revisions share what they
//! have in common. Maps are inner nodes; everything else, lists included, is a leaf. A leaf keeps
//! the revision that wrote it, a map the revision of the last change at or below it, and that is
//! what a plan's reads are compared with. A node's hash covers content only, never revisions, so
//! a rollback has the hash of what it brings back.
//!
//! A map with more than [`NARROW_MAX`] children hashes them in 256 buckets by name, so that one
//! change in a wide map re-hashes one bucket and not every child.

use crate::path::Path;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::sync::Arc;
use tiebeam_proto::{canonical, limits::CONFIG_LIMITS};

/// Children that a map hashes in one piece.
pub const NARROW_MAX: usize = 64;

/// The key of the one-member object that stands for a sealed secret: `{"$sealed": [text, digest]}`.
pub const SEALED: &str = "$sealed";

/// A SHA-256.
pub type Hash = [u8; 32];

/// A name in a map.
pub type Name = Arc<str>;

/// One node of the tree. Two are equal if content and last change are.
#[derive(Clone, Debug)]
pub enum Node {
    /// A map.
    Map(MapNode),
    /// Anything else.
    Leaf(Leaf),
}

/// A value that is no map.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// The value; a sealed secret keeps its `{"$sealed": …}` form here.
    pub value: Value,
    /// The revision that wrote it.
    pub revision: u64,
    hash: Hash,
    bytes: usize,
}

/// A map.
#[derive(Clone, Debug, PartialEq)]
pub struct MapNode {
    children: Children,
    /// The revision of the last change at or below this map.
    pub revision: u64,
    hash: Hash,
    bytes: usize,
}

#[derive(Clone, Debug, PartialEq)]
enum Children {
    Narrow(OrdMap<Name, Arc<Node>>),
    Wide { buckets: OrdMap<u8, Bucket>, count: usize },
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    children: OrdMap<Name, Arc<Node>>,
    hash: Hash,
}

impl PartialEq for Bucket {
    fn eq(&self, other: &Bucket) -> bool {
        self.hash == other.hash
    }
}

/// Why a change of the tree is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A name of the path leads through a value that is no map.
    #[error("{0} is a value, not a map: nothing can stand below it")]
    NotAMap(Path),
    /// One value is too large.
    #[error("the value at {0} has {1} bytes; at most {max} are allowed", max = CONFIG_LIMITS.0)]
    ValueTooLarge(Path, usize),
    /// The tree would be too large.
    #[error("the configuration would have {0} bytes of {max} allowed", max = CONFIG_LIMITS.1)]
    TreeTooLarge(usize),
    /// The tree would be too deep.
    #[error("{0} is nested deeper than {max} levels", max = CONFIG_LIMITS.2)]
    TooDeep(Path),
    /// A map has an empty name or one with a control character.
    #[error("a name below {0} is empty or holds a control character")]
    BadName(Path),
    /// The root cannot be a value or be removed.
    #[error("the root of the configuration must be a map")]
    Root,
    /// A user's value uses the form that is kept for sealed secrets.
    #[error("the value at {0} uses the reserved name `$sealed`")]
    Reserved(Path),
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.hash() == other.hash() && self.revision() == other.revision()
    }
}

/// A child that differs between two maps: its name, and what it is in each.
pub type Difference = (Name, Option<Arc<Node>>, Option<Arc<Node>>);

impl Node {
    /// The hash of the content.
    pub fn hash(&self) -> Hash {
        match self {
            Node::Map(map) => map.hash,
            Node::Leaf(leaf) => leaf.hash,
        }
    }

    /// The revision of the last change at or below this node.
    pub fn revision(&self) -> u64 {
        match self {
            Node::Map(map) => map.revision,
            Node::Leaf(leaf) => leaf.revision,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Node::Map(map) => map.bytes,
            Node::Leaf(leaf) => leaf.bytes,
        }
    }

    /// The value as users see it: sealed secrets as `{"secret": digest}`.
    pub fn to_value(&self) -> Value {
        match self {
            Node::Leaf(leaf) => shown(&leaf.value),
            Node::Map(map) => Value::Object(
                map.iter().map(|(name, node)| (name.to_string(), node.to_value())).collect(),
            ),
        }
    }

    /// The value with sealed secrets as they are stored.
    pub fn to_sealed_value(&self) -> Value {
        match self {
            Node::Leaf(leaf) => leaf.value.clone(),
            Node::Map(map) => Value::Object(
                map.iter().map(|(name, node)| (name.to_string(), node.to_sealed_value())).collect(),
            ),
        }
    }

    /// The text in the child of this name, if there is one.
    pub fn text(&self, name: &str) -> Option<&str> {
        match &**self.as_map()?.get(name)? {
            Node::Leaf(leaf) => leaf.value.as_str(),
            Node::Map(_) => None,
        }
    }

    /// The map, if it is one.
    pub fn as_map(&self) -> Option<&MapNode> {
        match self {
            Node::Map(map) => Some(map),
            Node::Leaf(_) => None,
        }
    }
}

/// The digest of a sealed secret, if `value` is one.
pub fn sealed_digest(value: &Value) -> Option<&str> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.get(SEALED)?.as_array()?.get(1)?.as_str()
}

/// The sealed text of a secret, if `value` is one.
pub fn sealed_text(value: &Value) -> Option<&str> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.get(SEALED)?.as_array()?.first()?.as_str()
}

/// The stored form of a sealed secret.
pub fn sealed(text: &str, digest: &str) -> Value {
    json!({ SEALED: [text, digest] })
}

fn shown(value: &Value) -> Value {
    sealed_digest(value).map_or_else(|| value.clone(), |digest| json!({"secret": digest}))
}

impl MapNode {
    /// The children in the order of their names.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (&Name, &Arc<Node>)> + '_> {
        match &self.children {
            Children::Narrow(children) => Box::new(children.iter()),
            Children::Wide { buckets, .. } => {
                let mut all: Vec<_> = buckets.values().flat_map(|b| b.children.iter()).collect();
                all.sort_by(|a, b| a.0.cmp(b.0));
                Box::new(all.into_iter())
            }
        }
    }

    /// The children that are not the same in `other`, by name. What the two maps share is not
    /// looked at.
    pub fn differences(&self, other: &MapNode) -> Vec<Difference> {
        let mut found = Vec::new();
        match (&self.children, &other.children) {
            (Children::Narrow(old), Children::Narrow(new)) => differences(old, new, &mut found),
            (Children::Wide { buckets: old, .. }, Children::Wide { buckets: new, .. }) => {
                let empty = OrdMap::new();
                for item in old.diff(new) {
                    match item {
                        DiffItem::Add(_, new) => differences(&empty, &new.children, &mut found),
                        DiffItem::Remove(_, old) => differences(&old.children, &empty, &mut found),
                        DiffItem::Update { old: (_, old), new: (_, new) } => {
                            differences(&old.children, &new.children, &mut found);
                        }
                    }
                }
            }
            _ => {
                let all = |map: &MapNode| map.iter().map(|(n, c)| (n.clone(), c.clone())).collect();
                differences(&all(self), &all(other), &mut found);
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// The child of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Node>> {
        match &self.children {
            Children::Narrow(children) => children.get(name),
            Children::Wide { buckets, .. } => buckets.get(&bucket_of(name))?.children.get(name),
        }
    }

    /// How many children there are.
    pub fn len(&self) -> usize {
        match &self.children {
            Children::Narrow(children) => children.len(),
            Children::Wide { count, .. } => *count,
        }
    }

    /// Whether there are no children.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn from_children(children: OrdMap<Name, Arc<Node>>, revision: u64) -> MapNode {
        let bytes = 2 + children.iter().map(|(n, c)| n.len() + 4 + c.bytes()).sum::<usize>();
        let children =
            if children.len() > NARROW_MAX { widen(children) } else { Children::Narrow(children) };
        let hash = children.hash();
        MapNode { children, revision, hash, bytes }
    }

    /// This map with `name` set to `child` or removed.
    fn with(&self, name: &str, child: Option<Arc<Node>>, revision: u64) -> MapNode {
        let old = self.get(name).map_or(0, |node| name.len() + 4 + node.bytes());
        let new = child.as_ref().map_or(0, |node| name.len() + 4 + node.bytes());
        let children = self.children.with(name, child);
        let hash = children.hash();
        MapNode { children, revision, hash, bytes: self.bytes - old + new }
    }
}

impl Children {
    fn with(&self, name: &str, child: Option<Arc<Node>>) -> Children {
        match self {
            Children::Narrow(children) => {
                let children = edit(children, name, child);
                if children.len() > NARROW_MAX {
                    widen(children)
                } else {
                    Children::Narrow(children)
                }
            }
            Children::Wide { buckets, count } => {
                let key = bucket_of(name);
                let before = buckets.get(&key).map_or(0, |bucket| bucket.children.len());
                let children = edit(
                    &buckets.get(&key).map(|b| b.children.clone()).unwrap_or_default(),
                    name,
                    child,
                );
                let count = count - before + children.len();
                let mut buckets = buckets.clone();
                if children.is_empty() {
                    buckets.remove(&key);
                } else {
                    buckets.insert(
                        key,
                        Bucket { hash: hash_children(b"bucket\0", &children), children },
                    );
                }
                if count <= NARROW_MAX {
                    narrow(&buckets)
                } else {
                    Children::Wide { buckets, count }
                }
            }
        }
    }

    fn hash(&self) -> Hash {
        match self {
            Children::Narrow(children) => hash_children(b"map\0", children),
            Children::Wide { buckets, .. } => {
                let mut hasher = Sha256::new_with_prefix(b"wide\0");
                for (key, bucket) in buckets {
                    hasher.update([*key]);
                    hasher.update(bucket.hash);
                }
                hasher.finalize().into()
            }
        }
    }
}

fn differences(
    old: &OrdMap<Name, Arc<Node>>,
    new: &OrdMap<Name, Arc<Node>>,
    found: &mut Vec<Difference>,
) {
    found.extend(old.diff(new).map(|item| match item {
        DiffItem::Add(name, new) => (name.clone(), None, Some(new.clone())),
        DiffItem::Remove(name, old) => (name.clone(), Some(old.clone()), None),
        DiffItem::Update { old: (name, old), new: (_, new) } => {
            (name.clone(), Some(old.clone()), Some(new.clone()))
        }
    }));
}

fn edit(
    children: &OrdMap<Name, Arc<Node>>,
    name: &str,
    child: Option<Arc<Node>>,
) -> OrdMap<Name, Arc<Node>> {
    let mut children = children.clone();
    match child {
        Some(node) => match children.get_mut(name) {
            Some(slot) => *slot = node,
            None => drop(children.insert(Arc::from(name), node)),
        },
        None => {
            children.remove(name);
        }
    }
    children
}

fn widen(children: OrdMap<Name, Arc<Node>>) -> Children {
    let count = children.len();
    let mut parts: std::collections::BTreeMap<u8, OrdMap<Name, Arc<Node>>> = Default::default();
    for (name, node) in children {
        parts.entry(bucket_of(&name)).or_default().insert(name, node);
    }
    let buckets = parts
        .into_iter()
        .map(|(key, children)| {
            (key, Bucket { hash: hash_children(b"bucket\0", &children), children })
        })
        .collect();
    Children::Wide { buckets, count }
}

fn narrow(buckets: &OrdMap<u8, Bucket>) -> Children {
    Children::Narrow(
        buckets
            .values()
            .flat_map(|bucket| bucket.children.iter().map(|(n, c)| (n.clone(), c.clone())))
            .collect(),
    )
}

/// FNV-1a of the name, folded to 8 bits: spread matters here, strength does not.
fn bucket_of(name: &str) -> u8 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let folded = hash ^ (hash >> 32);
    let folded = folded ^ (folded >> 16);
    (folded ^ (folded >> 8)) as u8
}

fn hash_children(prefix: &[u8], children: &OrdMap<Name, Arc<Node>>) -> Hash {
    let mut hasher = Sha256::new_with_prefix(prefix);
    for (name, node) in children {
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(node.hash());
    }
    hasher.finalize().into()
}

fn leaf(value: Value, revision: u64) -> Leaf {
    let canonical = canonical::to_vec(&value);
    let hash = Sha256::new_with_prefix(b"leaf\0").chain_update(&canonical).finalize().into();
    Leaf { value, revision, hash, bytes: canonical.len() }
}

/// The configuration at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    root: Arc<Node>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

impl Tree {
    /// The empty tree.
    pub fn new() -> Tree {
        Tree { root: Arc::new(Node::Map(MapNode::from_children(OrdMap::new(), 0))) }
    }

    /// The root's hash: the revision's.
    pub fn hash(&self) -> Hash {
        self.root.hash()
    }

    /// Bytes of the tree, as its limit counts them: canonical values plus names.
    pub fn bytes(&self) -> usize {
        self.root.bytes()
    }

    /// The root.
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// The node at `path`.
    pub fn get(&self, path: &Path) -> Option<&Arc<Node>> {
        path.names().try_fold(&self.root, |node, name| node.as_map()?.get(&name))
    }

    /// The node that these names lead to.
    pub fn at(&self, names: &[&str]) -> Option<&Arc<Node>> {
        names.iter().try_fold(&self.root, |node, name| node.as_map()?.get(name))
    }

    /// The value at `path` as users see it.
    pub fn value(&self, path: &Path) -> Option<Value> {
        self.get(path).map(|node| node.to_value())
    }

    /// The revision of the last change at or below `path`; `None` where there is nothing.
    pub fn revision_at(&self, path: &Path) -> Option<u64> {
        self.get(path).map(|node| node.revision())
    }

    /// The tree with `value` at `path`; missing maps above it are made. What is equal stays as it
    /// is, with its revision.
    pub fn set(&self, path: &Path, value: &Value, revision: u64) -> Result<Tree, TreeError> {
        let names: Vec<_> = path.names().collect();
        let old = self.get(path);
        let node = build(path, names.len(), value, old, revision)?;
        if old.is_some_and(|old| Arc::ptr_eq(old, &node)) {
            return Ok(self.clone());
        }
        if names.is_empty() && node.as_map().is_none() {
            return Err(TreeError::Root);
        }
        let root = replace(&self.root, &names, 0, Some(node), revision)?;
        if root.bytes() > CONFIG_LIMITS.1 {
            return Err(TreeError::TreeTooLarge(root.bytes()));
        }
        Ok(Tree { root })
    }

    /// The tree without `path`; the same tree if there is nothing.
    pub fn remove(&self, path: &Path, revision: u64) -> Result<Tree, TreeError> {
        let names: Vec<_> = path.names().collect();
        if names.is_empty() {
            return Err(TreeError::Root);
        }
        if self.get(path).is_none() {
            return Ok(self.clone());
        }
        Ok(Tree { root: replace(&self.root, &names, 0, None, revision)? })
    }
}

/// Makes the node for `value`, using `old` wherever it is the same.
fn build(
    at: &Path,
    depth: usize,
    value: &Value,
    old: Option<&Arc<Node>>,
    revision: u64,
) -> Result<Arc<Node>, TreeError> {
    if depth > CONFIG_LIMITS.2 {
        return Err(TreeError::TooDeep(at.clone()));
    }
    let object = value.as_object().filter(|_| sealed_digest(value).is_none());
    let Some(object) = object else {
        let leaf = leaf(value.clone(), revision);
        if leaf.bytes > CONFIG_LIMITS.0 {
            return Err(TreeError::ValueTooLarge(at.clone(), leaf.bytes));
        }
        return Ok(reuse(Node::Leaf(leaf), old));
    };
    let mut children = OrdMap::new();
    for (name, value) in object {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(TreeError::BadName(at.clone()));
        }
        if name == SEALED {
            return Err(TreeError::Reserved(at.clone()));
        }
        let old = old.and_then(|old| old.as_map()?.get(name));
        children.insert(
            Arc::from(name.as_str()),
            build(&at.child(name), depth + 1, value, old, revision)?,
        );
    }
    Ok(reuse(Node::Map(MapNode::from_children(children, revision)), old))
}

fn reuse(node: Node, old: Option<&Arc<Node>>) -> Arc<Node> {
    match old {
        Some(old) if old.hash() == node.hash() => old.clone(),
        _ => Arc::new(node),
    }
}

fn replace(
    node: &Arc<Node>,
    names: &[Cow<'_, str>],
    depth: usize,
    child: Option<Arc<Node>>,
    revision: u64,
) -> Result<Arc<Node>, TreeError> {
    let Some((first, rest)) = names[depth..].split_first() else {
        return Ok(child.expect("only a set replaces the root"));
    };
    let Node::Map(map) = &**node else {
        let at = names[..depth].iter().fold(Path::root(), |at, name| at.child(name));
        return Err(TreeError::NotAMap(at));
    };
    let below = if rest.is_empty() {
        child
    } else {
        let empty = || Arc::new(Node::Map(MapNode::from_children(OrdMap::new(), revision)));
        let next = map.get(first).cloned().unwrap_or_else(empty);
        Some(replace(&next, names, depth + 1, child, revision)?)
    };
    Ok(Arc::new(Node::Map(map.with(first, below, revision))))
}

/// How a node is written into a snapshot: with its revisions, which users' values do not carry.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Leaf { v: Value, r: u64 },
    Map { m: std::collections::BTreeMap<String, Stored>, r: u64 },
}

impl Stored {
    fn from_node(node: &Node) -> Stored {
        match node {
            Node::Leaf(leaf) => Stored::Leaf { v: leaf.value.clone(), r: leaf.revision },
            Node::Map(map) => Stored::Map {
                m: map.iter().map(|(n, c)| (n.to_string(), Stored::from_node(c))).collect(),
                r: map.revision,
            },
        }
    }

    fn into_node(self) -> Node {
        match self {
            Stored::Leaf { v, r } => Node::Leaf(leaf(v, r)),
            Stored::Map { m, r } => Node::Map(MapNode::from_children(
                m.into_iter().map(|(n, c)| (Arc::from(n), Arc::new(c.into_node()))).collect(),
                r,
            )),
        }
    }
}

impl Serialize for Tree {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        Stored::from_node(&self.root).serialize(out)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Tree, D::Error> {
        Ok(Tree { root: Arc::new(Stored::deserialize(input)?.into_node()) })
    }
}

/// `patch` merged into `target` as RFC 7396 says: maps merge, `null` removes, the rest replaces.
pub fn merge_patch(target: Option<Value>, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut object = match target {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            object.remove(name);
        } else {
            let merged = merge_patch(object.remove(name), value);
            object.insert(name.clone(), merged);
        }
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Path {
        Path::parse(text).unwrap()
    }

    #[test]
    fn a_change_keeps_the_revisions_of_what_it_does_not_touch() {
        let one = Tree::new().set(&p("app"), &json!({"a": 1, "b": {"c": 2}}), 1).unwrap();
        let two = one.set(&p("app"), &json!({"a": 1, "b": {"c": 3}}), 2).unwrap();
        assert_eq!(two.revision_at(&p("app/a")), Some(1));
        assert_eq!(two.revision_at(&p("app/b/c")), Some(2));
        assert_eq!(two.revision_at(&p("app")), Some(2));
        assert_eq!(two.set(&p("app/a"), &json!(1), 3).unwrap().hash(), two.hash());
        assert_eq!(two.set(&p("app/b/c"), &json!(2), 3).unwrap().hash(), one.hash());
    }

    #[test]
    fn the_hash_depends_on_content_only_however_wide_the_map() {
        let names: Vec<String> = (0..200).map(|n| format!("name{n}")).collect();
        let mut forward = Tree::new();
        for (n, name) in names.iter().enumerate() {
            forward = forward.set(&p(&format!("app/{name}")), &json!(n), n as u64).unwrap();
        }
        let whole: Map<String, Value> =
            names.iter().enumerate().map(|(n, name)| (name.clone(), json!(n))).collect();
        let at_once = Tree::new().set(&p("app"), &Value::Object(whole), 9).unwrap();
        assert_eq!(forward.hash(), at_once.hash());
        let mut shrunk = forward;
        for name in &names[60..] {
            shrunk = shrunk.remove(&p(&format!("app/{name}")), 300).unwrap();
        }
        let few: Map<String, Value> =
            names[..60].iter().enumerate().map(|(n, name)| (name.clone(), json!(n))).collect();
        let few = Tree::new().set(&p("app"), &Value::Object(few), 9).unwrap();
        assert_eq!(shrunk.hash(), few.hash());
        assert_eq!(shrunk.bytes(), few.bytes());
    }

    #[test]
    fn a_snapshot_keeps_hash_and_revisions() {
        let tree = Tree::new()
            .set(&p("app"), &json!({"list": [1, {"m": 2}], "m": {}, "v": 1.5}), 4)
            .unwrap()
            .set(&p("ssl/key"), &sealed("sealed1.x", "sha256:00"), 5)
            .unwrap();
        let text = serde_json::to_string(&tree).unwrap();
        let back: Tree = serde_json::from_str(&text).unwrap();
        assert_eq!((back.hash(), back.revision_at(&p("app/v"))), (tree.hash(), Some(4)));
        assert_eq!(back, tree);
        assert_eq!(back.value(&p("ssl")), Some(json!({"key": {"secret": "sha256:00"}})));
    }

    #[test]
    fn limits_are_named() {
        let tree = Tree::new().set(&p("app/a"), &json!(1), 1).unwrap();
        assert_eq!(tree.set(&p("app/a/b"), &json!(1), 2), Err(TreeError::NotAMap(p("app/a"))));
        assert_eq!(tree.set(&Path::root(), &json!(1), 2), Err(TreeError::Root));
        let long = json!("x".repeat(70_000));
        assert!(matches!(tree.set(&p("app/b"), &long, 2), Err(TreeError::ValueTooLarge(..))));
        let deep = "a/".repeat(40) + "b";
        assert!(matches!(tree.set(&p(&deep), &json!(1), 2), Err(TreeError::TooDeep(_))));
        assert!(matches!(
            tree.set(&p("app/c"), &json!({"$sealed": 1}), 2),
            Err(TreeError::Reserved(_))
        ));
    }

    #[test]
    fn a_merge_patch_is_rfc_7396() {
        let target = json!({"a": {"b": 1, "c": 2}, "d": 3});
        let patch = json!({"a": {"b": null, "e": 5}, "d": [1]});
        assert_eq!(merge_patch(Some(target), &patch), json!({"a": {"c": 2, "e": 5}, "d": [1]}));
    }
}
