//! A reader of the pickles in PyTorch's files, which executes nothing.
//!
//! A pickle is a program for a small stack machine, of which two instructions name any function of Python and call it. Here the machine has
//! the instructions that a table of tensors needs, and the functions of [`GLOBALS`], which are not called but understood: a call gives the
//! description of a tensor. Any other name, and any other instruction, ends the reading with an error that says which.
//!
//! All objects lie in the arenas of [`Machine`] and refer to each other by number. So what a pickle can take is bounded by its length: an
//! instruction makes at most one object, copies of objects are numbers, and objects that contain themselves or are nested without end are
//! neither followed nor freed one inside the other.

use std::collections::HashMap;

/// A tensor as a pickle describes it; nothing is checked against the storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    pub storage: Storage,
    /// Elements before the first, shape, and elements from one to the next along each dimension.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// Where numbers are kept that tensors share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storage {
    /// The type's name in safetensors: `BF16`.
    pub kind: &'static str,
    /// The name of its file in the archive.
    pub key: String,
    pub elements: usize,
}

/// The tensors of the table that a pickle holds, in its order. Entries that are no tensors are left out.
///
/// # Errors
/// Says what the pickle asks for that a table of tensors does not need, or where it is damaged.
pub(super) fn tensors(pickle: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let mut machine = Machine { input: pickle, ..Machine::default() };
    let Value::Table(table) = machine.run()? else { return Err("is no table of tensors".to_owned()) };
    let mut found = Vec::new();
    for &(key, value) in &machine.tables[table] {
        if let (Value::Text(start, length), Value::Tensor(tensor)) = (key, value) {
            found.push((machine.text(start, length)?.to_owned(), machine.tensors[tensor].clone()));
        }
    }
    match found.is_empty() {
        true => Err("is a table without tensors".to_owned()),
        false => Ok(found),
    }
}

/// The functions and classes that tensors need.
const GLOBALS: [(&str, Global); 15] = [
    ("collections OrderedDict", Global::Table),
    ("torch._utils _rebuild_tensor", Global::Tensor),
    ("torch._utils _rebuild_tensor_v2", Global::Tensor),
    ("torch._utils _rebuild_parameter", Global::Parameter),
    ("torch._utils _rebuild_parameter_with_state", Global::Parameter),
    ("torch FloatStorage", Global::Storage("F32")),
    ("torch HalfStorage", Global::Storage("F16")),
    ("torch BFloat16Storage", Global::Storage("BF16")),
    ("torch DoubleStorage", Global::Storage("F64")),
    ("torch LongStorage", Global::Storage("I64")),
    ("torch IntStorage", Global::Storage("I32")),
    ("torch ShortStorage", Global::Storage("I16")),
    ("torch CharStorage", Global::Storage("I8")),
    ("torch ByteStorage", Global::Storage("U8")),
    ("torch BoolStorage", Global::Storage("BOOL")),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    Table,
    Tensor,
    /// A tensor that is trained: its first argument.
    Parameter,
    Storage(&'static str),
}

/// An object; those that contain others by their number in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// Begins the items of a tuple, list or table on the stack.
    Mark,
    /// None, a flag, a fraction: nothing that a tensor's description is read from.
    Other,
    Number(i64),
    /// Where in the pickle it begins, and its bytes.
    Text(usize, usize),
    Items(usize),
    Table(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
}

#[derive(Default)]
struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    /// Tuples, lists and sets.
    items: Vec<Vec<Value>>,
    tables: Vec<Vec<(Value, Value)>>,
    storages: Vec<Storage>,
    tensors: Vec<Tensor>,
}

const CUT: &str = "ends in the middle of an instruction";

impl<'a> Machine<'a> {
    /// Runs to the end and gives what is left.
    fn run(&mut self) -> Result<Value, String> {
        loop {
            let instruction = self.byte()?;
            match instruction {
                // Protocols up to 5; frames only say how much to read at one time.
                0x80 => drop(self.byte()?),
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),
                b'(' => self.stack.push(Value::Mark),
                b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Other);
                }
                b'K' => self.number(1)?,
                b'M' => self.number(2)?,
                b'J' => {
                    let bytes = self.take(4)?;
                    self.stack.push(Value::Number(i64::from(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))));
                }
                0x8a => self.long()?,
                b'X' => self.take_text(4)?,
                0x8c => self.take_text(1)?,
                0x8d => self.take_text(8)?,
                // Byte strings: old writers kept keys in them.
                b'U' | b'C' => self.take_text(1)?,
                b'T' | b'B' => self.take_text(4)?,
                b')' => self.push_items(Vec::new()),
                b']' | 0x8f => self.push_items(Vec::new()),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push_items(items);
                }
                0x85..=0x87 => {
                    let first =
                        self.stack.len().checked_sub(usize::from(instruction - 0x84)).ok_or("takes from an empty stack")?;
                    let items = self.stack.split_off(first);
                    self.push_items(items);
                }
                b'}' => self.push_table(),
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.insert(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.insert(&items)?;
                }
                b'q' => {
                    let number = u32::from(self.byte()?);
                    self.remember(number)?;
                }
                b'r' => {
                    let number = self.length(4)? as u32;
                    self.remember(number)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?,
                b'h' => {
                    let number = u32::from(self.byte()?);
                    self.recall(number)?;
                }
                b'j' => {
                    let number = self.length(4)? as u32;
                    self.recall(number)?;
                }
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(name, of_name), Value::Text(module, of_module)) = (name, module) else {
                        return Err("names a function by something that is no text".to_owned());
                    };
                    self.global(self.text(module, of_module)?, self.text(name, of_name)?)?;
                }
                b'Q' => self.storage()?,
                b'R' => self.call()?,
                // The state of an object: of a table of tensors, a record of versions.
                b'b' => match (self.pop()?, self.stack.last()) {
                    (_, Some(Value::Table(_))) => {}
                    _ => return Err("sets the state of something that is no table".to_owned()),
                },
                other => return Err(format!("has the instruction {other:#04x}, which no table of tensors needs")),
            }
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let bytes = self.at.checked_add(count).and_then(|end| self.input.get(self.at..end)).ok_or(CUT)?;
        self.at += count;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    /// An unsigned number of so many bytes, at most 8.
    fn length(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn number(&mut self, bytes: usize) -> Result<(), String> {
        let number = self.length(bytes)? as i64;
        self.stack.push(Value::Number(number));
        Ok(())
    }

    /// A whole number of any length; one that needs more than 8 bytes is no size.
    fn long(&mut self) -> Result<(), String> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
        let mut whole = [fill; 8];
        self.stack.push(match length {
            ..=8 => {
                whole[..length].copy_from_slice(bytes);
                Value::Number(i64::from_le_bytes(whole))
            }
            _ => Value::Other,
        });
        Ok(())
    }

    fn take_text(&mut self, bytes_of_length: usize) -> Result<(), String> {
        let length = usize::try_from(self.length(bytes_of_length)?).map_err(|_| CUT)?;
        self.stack.push(Value::Text(self.at, length));
        self.take(length).map(drop)
    }

    fn text(&self, start: usize, length: usize) -> Result<&'a str, String> {
        std::str::from_utf8(&self.input[start..start + length]).map_err(|_| "has a name that is not UTF-8".to_owned())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or(CUT)?;
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| "has a name that is not UTF-8".to_owned())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "takes from an empty stack".to_owned())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark).ok_or("lacks the mark of a list")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn push_items(&mut self, items: Vec<Value>) {
        self.stack.push(Value::Items(self.items.len()));
        self.items.push(items);
    }

    fn push_table(&mut self) {
        self.stack.push(Value::Table(self.tables.len()));
        self.tables.push(Vec::new());
    }

    fn append(&mut self, new: Vec<Value>) -> Result<(), String> {
        match self.stack.last() {
            Some(Value::Items(items)) => self.items[*items].extend(new),
            _ => return Err("appends to something that is no list".to_owned()),
        }
        Ok(())
    }

    fn insert(&mut self, new: &[Value]) -> Result<(), String> {
        let Some(Value::Table(table)) = self.stack.last() else {
            return Err("inserts into something that is no table".to_owned());
        };
        if !new.len().is_multiple_of(2) {
            return Err("inserts a key without a value".to_owned());
        }
        self.tables[*table].extend(new.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn remember(&mut self, number: u32) -> Result<(), String> {
        let value = *self.stack.last().ok_or("remembers what is not there")?;
        self.memo.insert(number, value);
        Ok(())
    }

    fn recall(&mut self, number: u32) -> Result<(), String> {
        self.stack.push(*self.memo.get(&number).ok_or("recalls what it has not remembered")?);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let known = GLOBALS.iter().find(|(known, _)| known.split_once(' ') == Some((module, name)));
        let Some((_, global)) = known else {
            let shown: String = format!("{module}.{name}").chars().take(120).collect();
            return Err(format!("asks for `{shown}`, which no table of tensors needs and which is not executed"));
        };
        self.stack.push(Value::Global(*global));
        Ok(())
    }

    /// A storage: `("storage", class, key, device, elements)`.
    fn storage(&mut self) -> Result<(), String> {
        let wrong = || "describes a storage in a way that torch.save does not".to_owned();
        let Value::Items(items) = self.pop()? else { return Err(wrong()) };
        let &[Value::Text(..), Value::Global(Global::Storage(kind)), Value::Text(key, length), _, Value::Number(elements)] =
            self.items[items].as_slice()
        else {
            return Err(wrong());
        };
        let storage =
            Storage { kind, key: self.text(key, length)?.to_owned(), elements: usize::try_from(elements).map_err(|_| wrong())? };
        self.stack.push(Value::Storage(self.storages.len()));
        self.storages.push(storage);
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let (Value::Items(arguments), Value::Global(function)) = (arguments, function) else {
            return Err("calls something that is no function".to_owned());
        };
        let arguments = self.items[arguments].as_slice();
        match (function, arguments) {
            (Global::Table, []) => self.push_table(),
            (Global::Parameter, &[Value::Tensor(tensor), ..]) => self.stack.push(Value::Tensor(tensor)),
            (
                Global::Tensor,
                &[Value::Storage(storage), Value::Number(offset), Value::Items(shape), Value::Items(strides), ..],
            ) => {
                let tensor = Tensor {
                    storage: self.storages[storage].clone(),
                    offset: usize::try_from(offset).map_err(|_| "has a tensor with a negative offset")?,
                    shape: self.sizes(shape)?,
                    strides: self.sizes(strides)?,
                };
                self.stack.push(Value::Tensor(self.tensors.len()));
                self.tensors.push(tensor);
            }
            (function, _) => return Err(format!("calls {function:?} with arguments that torch.save does not write")),
        }
        Ok(())
    }

    fn sizes(&self, items: usize) -> Result<Vec<usize>, String> {
        let size = |value: &Value| match value {
            Value::Number(size) => usize::try_from(*size).ok(),
            _ => None,
        };
        let items = &self.items[items];
        // torch itself allows 64; more would be an attack on whatever multiplies them.
        let sizes = if items.len() <= 64 { items.iter().map(size).collect() } else { None };
        sizes.ok_or_else(|| "has a tensor whose shape is no list of sizes".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"w": tensor}` in the instructions that torch 2 writes, with the name of the function that makes the tensor.
    fn pickle(function: &str) -> Vec<u8> {
        let mut bytes = b"\x80\x02}q\x00X\x01\x00\x00\x00wq\x01c".to_vec();
        bytes.extend(function.as_bytes());
        bytes.extend(b"\nq\x02((X\x07\x00\x00\x00storageq\x03ctorch\nHalfStorage\nq\x04X\x01\x00\x00\x007q\x05X\x03\x00\x00\x00cpuq\x06K\x08tq\x07QK\x02K\x02K\x03\x86q\x08K\x03K\x01\x86q\x09\x89ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0ds.");
        bytes
    }

    #[test]
    fn a_tensor_is_described_as_it_was_saved() {
        let storage = Storage { kind: "F16", key: "7".to_owned(), elements: 8 };
        let tensor = Tensor { storage, offset: 2, shape: vec![2, 3], strides: vec![3, 1] };
        assert_eq!(tensors(&pickle("torch._utils\n_rebuild_tensor_v2")), Ok(vec![("w".to_owned(), tensor)]));
    }

    #[test]
    fn what_tensors_do_not_need_is_refused_by_name() {
        for name in ["os\nsystem", "builtins\neval", "torch._utils\n_rebuild_tensor_v3", "torch\nload"] {
            let problem = tensors(&pickle(name)).unwrap_err();
            assert!(problem.contains(&name.replace('\n', ".")) && problem.contains("not executed"), "{problem}");
        }
        // The same by the instruction of newer protocols, and hidden in what is thrown away.
        let named = b"\x80\x04\x8c\x02os\x8c\x06system\x930}.";
        assert!(tensors(named).unwrap_err().contains("os.system"));
        assert!(tensors(b"\x80\x02]ios\nsystem\n.").unwrap_err().contains("0x69"));
    }

    /// Every end of a sound pickle, and lists inside themselves or each other a million deep.
    #[test]
    fn damaged_and_hostile_pickles_are_errors() {
        let sound = pickle("torch._utils\n_rebuild_tensor_v2");
        for length in 0..sound.len() {
            assert!(tensors(&sound[..length]).is_err(), "{length}");
        }
        let deep = [b"]".repeat(1 << 20), b"a".repeat((1 << 20) - 1), b".".to_vec()].concat();
        assert!(tensors(&deep).is_err());
        assert!(tensors(b"]q\x00h\x00a.").is_err());
        // Each list twice in the next: 2^64 leaves, if anything followed them.
        assert!(tensors(&[b"]".to_vec(), b"q\x00h\x00\x86".repeat(64), b".".to_vec()].concat()).is_err());
    }
}
