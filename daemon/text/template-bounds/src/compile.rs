//! Template compiler: rewrites instructions so that every result is measured.
//!
//! Owns the rewriting. minijinja has no hook at the operators that can make large values, so the
//! compiled instructions are replaced by calls of this crate's filters (see `functions`). Relies on
//! minijinja's `unstable_machinery`: the crate's documentation lists what to check after an update.

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, Token, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind, Value};

use super::functions::{ADD, CHARGE, CONCAT, MULTIPLY, STORE};

/// Maximum number of tokens between `{{` and `}}`, or `{%` and `%}`. The longest in use have about 100.
const MAX_EXPRESSION_TOKENS: usize = 2_000;

/// The cache slot that makes minijinja look a filter up by name each time.
const UNCACHED: u8 = !0;

/// Compiles `source` with `trim_blocks` and `lstrip_blocks`, as Hugging Face does.
pub(crate) fn compile(source: &str) -> Result<Instructions<'_>, Error> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    check_tokens(source, &syntax)?;
    let tree = parse(source, "chat_template", syntax)?;
    let mut generator = CodeGenerator::new("chat_template", source);
    generator.compile_stmt(&tree);
    let (instructions, blocks) = generator.finish();
    if !blocks.is_empty() {
        return Err(refuse("blocks are not supported"));
    }
    Ok(rewrite(&instructions))
}

fn refuse(problem: &str) -> Error {
    Error::new(ErrorKind::SyntaxError, problem.to_owned())
}

/// Refuses expressions that could hurt the compiler itself.
///
/// The compiler evaluates constant expressions, so `'a' * 1000000000` would take 1 GB before the
/// rewriting. It also recurses along an expression.
fn check_tokens(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    let mut in_expression = 0;
    let mut before_is_number = true;
    let mut after_times = false;
    for token in tokenize(source, false, syntax.clone()) {
        let (token, _) = token?;
        let is_number = matches!(token, Token::Ident(_) | Token::Int(_) | Token::Float(_));
        if after_times && !is_number {
            return Err(refuse("`*` is supported between names and numbers only"));
        }
        after_times = matches!(token, Token::Mul);
        if after_times && !before_is_number {
            return Err(refuse("`*` is supported between names and numbers only"));
        }
        before_is_number = is_number;
        in_expression = match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => 0,
            _ => in_expression + 1,
        };
        if in_expression > MAX_EXPRESSION_TOKENS {
            return Err(refuse("an expression is too long"));
        }
    }
    Ok(())
}

/// Replaces instructions by measured ones, and moves the targets of jumps accordingly.
fn rewrite<'source>(old: &Instructions<'source>) -> Instructions<'source> {
    let all = || (0..).map_while(|index| old.get(index));
    // Start of each old instruction's replacement; one more entry for jumps to the end.
    let mut starts = vec![0_u32];
    for (instruction, before) in all().zip(0_usize..) {
        starts.push(starts[before] + replacement(instruction).len() as u32);
    }
    let moved = |target: u32| starts.get(target as usize).copied().unwrap_or(target);

    let mut new = Instructions::new(old.name(), old.source());
    for (instruction, index) in all().zip(0..) {
        for mut instruction in replacement(instruction) {
            match &mut instruction {
                Instruction::Iterate(target)
                | Instruction::Jump(target)
                | Instruction::JumpIfFalse(target)
                | Instruction::JumpIfFalseOrPop(target)
                | Instruction::JumpIfTrueOrPop(target)
                | Instruction::BuildMacro(_, target, _) => *target = moved(*target),
                _ => {}
            }
            match old.get_line(index) {
                Some(line) => new.add_with_line(instruction, line as u16),
                None => new.add(instruction),
            };
        }
    }
    new
}

fn replacement<'source>(instruction: &Instruction<'source>) -> Vec<Instruction<'source>> {
    let filter = |name, arguments| Instruction::ApplyFilter(name, Some(arguments), UNCACHED);
    let same = instruction.clone();
    match instruction {
        // Emitted values pass the environment's formatter, which counts them. Raw text does not.
        Instruction::EmitRaw(text) => {
            vec![Instruction::LoadConst(Value::from(*text)), Instruction::Emit]
        }
        Instruction::StringConcat => vec![filter(CONCAT, 2)],
        Instruction::Add => vec![filter(ADD, 2), filter(CHARGE, 1)],
        Instruction::Mul => vec![filter(MULTIPLY, 2)],
        // The stack holds the value below the namespace that stores it.
        Instruction::SetAttr(_) => {
            vec![Instruction::Swap, filter(STORE, 1), Instruction::Swap, same]
        }
        // Each turn of a loop checks the time: measuring the value `none` does that.
        Instruction::Iterate(_) => {
            let nothing = Instruction::LoadConst(Value::from(()));
            vec![nothing, filter(CHARGE, 1), Instruction::DiscardTop, same]
        }
        Instruction::ApplyFilter(..)
        | Instruction::PerformTest(..)
        | Instruction::Eq
        | Instruction::Ne
        | Instruction::Gt
        | Instruction::Gte
        | Instruction::Lt
        | Instruction::Lte
        | Instruction::In
        | Instruction::BuildList(_)
        | Instruction::BuildTuple(_)
        | Instruction::BuildMap(_)
        | Instruction::CallFunction(..)
        | Instruction::CallMethod(..)
        | Instruction::CallObject(_)
        | Instruction::EndCapture
        | Instruction::Slice => vec![same, filter(CHARGE, 1)],
        _ => vec![same],
    }
}
