//! Language filter. Prompts are short, so a text is dropped only if its language is detected
//! reliably, or if none of the wanted languages uses its script.

use whatlang::Lang;

use crate::CorpusError;

/// ISO 639-1 codes of the languages that whatlang detects; whatlang itself uses ISO 639-3.
const TWO_LETTERS: [(&str, Lang); 68] = [
    ("af", Lang::Afr),
    ("ak", Lang::Aka),
    ("am", Lang::Amh),
    ("ar", Lang::Ara),
    ("az", Lang::Aze),
    ("be", Lang::Bel),
    ("bg", Lang::Bul),
    ("bn", Lang::Ben),
    ("ca", Lang::Cat),
    ("cs", Lang::Ces),
    ("cy", Lang::Cym),
    ("da", Lang::Dan),
    ("de", Lang::Deu),
    ("el", Lang::Ell),
    ("en", Lang::Eng),
    ("eo", Lang::Epo),
    ("es", Lang::Spa),
    ("et", Lang::Est),
    ("fa", Lang::Pes),
    ("fi", Lang::Fin),
    ("fr", Lang::Fra),
    ("gu", Lang::Guj),
    ("he", Lang::Heb),
    ("hi", Lang::Hin),
    ("hr", Lang::Hrv),
    ("hu", Lang::Hun),
    ("hy", Lang::Hye),
    ("id", Lang::Ind),
    ("it", Lang::Ita),
    ("ja", Lang::Jpn),
    ("jv", Lang::Jav),
    ("ka", Lang::Kat),
    ("km", Lang::Khm),
    ("kn", Lang::Kan),
    ("ko", Lang::Kor),
    ("la", Lang::Lat),
    ("lt", Lang::Lit),
    ("lv", Lang::Lav),
    ("mk", Lang::Mkd),
    ("ml", Lang::Mal),
    ("mr", Lang::Mar),
    ("my", Lang::Mya),
    ("nb", Lang::Nob),
    ("ne", Lang::Nep),
    ("nl", Lang::Nld),
    ("or", Lang::Ori),
    ("pa", Lang::Pan),
    ("pl", Lang::Pol),
    ("pt", Lang::Por),
    ("ro", Lang::Ron),
    ("ru", Lang::Rus),
    ("si", Lang::Sin),
    ("sk", Lang::Slk),
    ("sl", Lang::Slv),
    ("sn", Lang::Sna),
    ("sr", Lang::Srp),
    ("sv", Lang::Swe),
    ("ta", Lang::Tam),
    ("te", Lang::Tel),
    ("th", Lang::Tha),
    ("tk", Lang::Tuk),
    ("tl", Lang::Tgl),
    ("tr", Lang::Tur),
    ("uk", Lang::Ukr),
    ("ur", Lang::Urd),
    ("uz", Lang::Uzb),
    ("vi", Lang::Vie),
    ("zh", Lang::Cmn),
];

#[derive(Debug)]
pub(super) struct Languages(Vec<Lang>);

impl Languages {
    pub fn new(codes: &[String]) -> Result<Self, CorpusError> {
        codes.iter().map(|code| language(code)).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether the text is in one of the languages, or in none that can be detected.
    pub fn keeps(&self, text: &str) -> bool {
        if self.0.is_empty() {
            return true;
        }
        whatlang::detect(text).is_none_or(|told| {
            let possible = told.script().langs().iter().any(|lang| self.0.contains(lang));
            self.0.contains(&told.lang()) || (possible && !told.is_reliable())
        })
    }
}

fn language(code: &str) -> Result<Lang, CorpusError> {
    let lower = code.to_ascii_lowercase();
    let short = TWO_LETTERS.iter().find(|(two, _)| *two == lower).map(|(_, lang)| *lang);
    short.or_else(|| Lang::from_code(lower)).ok_or_else(|| {
        let known = TWO_LETTERS.map(|(two, _)| two).join(", ");
        CorpusError::Options(format!(
            "the language {code:?} cannot be detected; choose among {known} (or their ISO 639-3 codes)"
        ))
    })
}
