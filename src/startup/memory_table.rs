//! The memory plan as it is shown at the start.

use kernels::BLOCK_SIZE;
use models::DeviceBytes;

use super::sizes::Sizes;
use crate::lang::Lang;

impl Sizes {
    /// The memory plan as it is shown at the start; `program` is what the process takes without the model, but with the
    /// encoder's weights, which are loaded by then.
    pub fn table(&self, program: usize, lang: Lang) -> String {
        let Self { plan, encoder, free, .. } = self;
        let program = program.saturating_sub(encoder.weights);
        let mut rows = Vec::new();
        if plan.card_layers > 0 {
            let head = lang.pick("GPU memory", "память GPU");
            rows.extend(self.device_rows(head, &plan.card, [0, 0], (free.card, self.num_cards), lang));
        }
        let head = lang.pick("memory", "память");
        rows.extend(self.device_rows(head, &plan.host, [program, encoder.total()], (free.host, 1), lang));
        rows.join("\n")
    }

    /// The rows of one device, or of equal cards: what the program and the encoder take there, and what is free.
    fn device_rows(
        &self,
        head: &str,
        bytes: &DeviceBytes,
        [program, encoder]: [usize; 2],
        (free, num_cards): (Option<usize>, usize),
        lang: Lang,
    ) -> Vec<String> {
        let blocks = self.options.num_blocks;
        let (tokens, cache_type) = (blocks * BLOCK_SIZE, self.cache_type);
        let parts = [
            (lang.pick("program", "программа"), program),
            (lang.pick("embeddings", "эмбеддинги"), encoder),
            (lang.pick("weights", "веса"), bytes.weights),
            (lang.pick("workspace", "буферы"), bytes.workspace),
            (lang.pick("KV cache", "KV-кэш"), blocks * bytes.block),
        ];
        let total = parts.iter().map(|(_, bytes)| bytes).sum();
        let mut of_free =
            free.map(mebibytes).map(|free| lang.pick(format!("  of {free} free"), format!("  из свободных {free}")));
        if num_cards > 1 {
            let each = lang.pick(format!(", on each of {num_cards} cards"), format!(", на каждой из {num_cards} карт"));
            of_free = of_free.map(|of_free| of_free + &each);
        }
        let of_blocks = (bytes.block > 0).then(|| {
            lang.pick(
                format!("  {blocks} blocks of {BLOCK_SIZE} tokens = {tokens} tokens, {cache_type}"),
                format!("  блоков по {BLOCK_SIZE} токена: {blocks}, токенов: {tokens}, {cache_type}"),
            )
        });
        let mut rows = Vec::new();
        let mut row = |name: &str, bytes: usize, remark: Option<String>| {
            let head = if rows.is_empty() { head } else { "" };
            rows.push(format!("  {head:<10} {name:<12} {:>12}{}", mebibytes(bytes), remark.unwrap_or_default()));
        };
        for (index, (name, bytes)) in parts.into_iter().enumerate() {
            if bytes > 0 {
                row(name, bytes, of_blocks.clone().filter(|_| index == parts.len() - 1));
            }
        }
        row(lang.pick("in all", "всего"), total, of_free);
        rows
    }
}

/// Bytes as people read them.
pub(super) fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
