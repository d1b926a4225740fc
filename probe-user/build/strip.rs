//! Leaves out of the kernel object what nobody reads at run time.

use object::{
    build::{
        Error,
        elf::{Builder, SectionData},
    },
    elf,
};

/// The object without DWARF, four fifths of it: the compiler has to write it, because BTF is made of it, and the loader
/// would keep it in memory and sort its relocations at each start.
pub(super) fn without_dwarf(object: &[u8]) -> Result<Vec<u8>, Error> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        let of = name.strip_prefix(b".rel").unwrap_or(name);
        section.delete = of.starts_with(b".debug_");
    }
    // LLVM keeps the names of sections and those of symbols in one table, and here each has its own.
    let names = builder.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
    builder.delete_orphans();
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}
