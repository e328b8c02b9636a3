//! What a broken or hostile peer might make of a valid message; the same in every run.

/// Counts and lengths that are not there, as 16 and 32 bits and as varints.
const LENGTHS: [&[u8]; 10] = [
    &[0, 0],
    &[0x7f, 0xff],
    &[0x80, 0x00],
    &[0xff, 0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0x00, 0x00, 0x00],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0x80, 0x80, 0x80, 0x80, 0x10],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
];

/// Shows `visit` the message cut at each length, with each bit flipped, with each of [`LENGTHS`] in
/// place of its bytes and between them, and `n_random` times with some bytes changed at random.
pub(super) fn each(valid: &[u8], n_random: usize, mut visit: impl FnMut(&[u8])) {
    for at in 0..=valid.len() {
        visit(&valid[..at]);
        for length in LENGTHS {
            let behind = (at + length.len()).min(valid.len());
            visit(&[&valid[..at], length, &valid[behind..]].concat());
            visit(&[&valid[..at], length, &valid[at..]].concat());
        }
    }
    for bit in 0..valid.len() * 8 {
        let mut bytes = valid.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        visit(&bytes);
    }
    let mut dice = Dice(valid.len() as u64);
    for _ in 0..n_random {
        visit(&at_random(valid, &mut dice));
    }
}

fn at_random(valid: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..=dice.below(4) {
        let from = dice.below(bytes.len() + 1);
        let to = from + dice.below((bytes.len() - from).min(8) + 1);
        match dice.below(4) {
            0 => bytes.truncate(from),
            // Again what stands elsewhere: items beyond their count, strings within strings.
            1 => {
                let piece = bytes[from..].to_vec();
                bytes.splice(to..to, piece);
            }
            _ => {
                let noise: Vec<u8> = (0..dice.below(8)).map(|_| dice.next() as u8).collect();
                bytes.splice(from..to, noise);
            }
        }
    }
    bytes
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
