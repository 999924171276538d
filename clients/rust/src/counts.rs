use crate::proto::eldr::v1::{SparseCounts, activation_counts::Encoding};
use crate::{ActivationCounts, Error};

/// The contract's limit.
const MAX_TOKENS: u64 = 1 << 26;

/// How often the tokens of a prefill, or of a part of it, picked each expert.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// One row of counts per MoE layer that is present, one count per logical routed expert. Each row
    /// sums to tokens x `top_k`.
    pub rows: Vec<Vec<u32>>,
    /// How many experts each token picks in each layer.
    pub top_k: u32,
    /// Prompt tokens whose experts could not be known; they are in no row.
    pub unknown_tokens: u32,
    /// The first layer present, for a pipeline rank that sends its own.
    pub layer_offset: u32,
    /// Layers of the whole model; 0 stands for `layer_offset` plus the rows.
    pub num_layers: u32,
}

impl Counts {
    /// The contract's message, dense or sparse, whichever is smaller.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] says which rows do not fit together.
    pub fn encode(&self) -> Result<ActivationCounts, Error> {
        let num_tokens = self.tokens()?;
        let layers = self.rows.len() as u32;
        Ok(ActivationCounts {
            num_layers: match self.num_layers {
                0 => self.layer_offset + layers,
                given => given,
            },
            layer_offset: self.layer_offset,
            layers_present: layers,
            num_experts: self.rows[0].len() as u32,
            top_k: self.top_k,
            num_tokens,
            unknown_tokens: self.unknown_tokens,
            encoding: self.encoding(),
        })
    }

    fn tokens(&self) -> Result<u32, Error> {
        let experts = self.rows.first().map_or(0, Vec::len);
        if experts == 0 {
            return Err(Error::invalid("counts", "at least one layer and one expert", "none"));
        }
        let top_k = u64::from(self.top_k);
        if top_k < 1 || top_k > experts as u64 {
            return Err(Error::invalid(
                "top_k",
                format!("1 to {experts} experts"),
                top_k.to_string(),
            ));
        }
        let sum = |row: &[u32]| row.iter().map(|&count| u64::from(count)).sum::<u64>();
        let first = sum(&self.rows[0]);
        for (i, row) in self.rows.iter().enumerate() {
            if row.len() != experts {
                let expected = format!("{experts} experts in row {i}");
                return Err(Error::invalid("counts", expected, row.len().to_string()));
            }
            let found = sum(row);
            if found != first || found % top_k != 0 {
                let expected = format!("each row to sum to tokens x {top_k}");
                let found = format!("{first} in row 0 and {found} in row {i}");
                return Err(Error::invalid("counts", expected, found));
            }
        }
        match first / top_k {
            tokens if tokens > MAX_TOKENS => Err(Error::invalid(
                "counts",
                format!("at most {MAX_TOKENS} tokens"),
                tokens.to_string(),
            )),
            tokens => Ok(tokens as u32),
        }
    }

    /// Unset where there are no tokens.
    fn encoding(&self) -> Option<Encoding> {
        let all = || self.rows.iter().flatten().copied();
        let (mut sparse, mut size) = (SparseCounts::default(), 0);
        for (index, count) in (0u32..).zip(all()).filter(|&(_, count)| count != 0) {
            sparse.index.push(index);
            sparse.count.push(count);
            size += varint(index) + varint(count);
        }
        let is_narrow = *sparse.count.iter().max()? <= u32::from(u16::MAX);
        let dense = all().count() * if is_narrow { 2 } else { 4 };
        Some(if size < dense {
            Encoding::Sparse(sparse)
        } else if is_narrow {
            Encoding::DenseU16(all().flat_map(|count| (count as u16).to_le_bytes()).collect())
        } else {
            Encoding::DenseU32(all().flat_map(u32::to_le_bytes).collect())
        })
    }
}

/// Bytes of a value in protobuf's encoding: one for every seven bits.
fn varint(value: u32) -> usize {
    (value | 1).ilog2() as usize / 7 + 1
}
