"""300 texts of many kinds, always the same: prompts, scripts, emoji, white space, nothing, far too much."""

import random

SUBJECTS = ["a red fox", "an astronaut riding a horse", "two large blue circles", "a small striped star",
            "the lighthouse of Alexandria", "a portrait of an old fisherman", "a bowl of ramen", "neon Tokyo streets",
            "a cathedral made of glass", "a hedgehog in a teacup", "mountains above the clouds", "a rusty robot"]
PLACES = ["on a green field", "under a night sky", "in deep snow", "at golden hour", "beside a river",
          "in an empty library", "on Mars", "inside a snow globe"]
STYLES = ["oil painting", "pixel art", "watercolour", "35mm photograph, bokeh, f/1.8", "ukiyo-e woodblock print",
          "trending on artstation, 8k, highly detailed", "pencil sketch", "isometric 3d render", ""]
SCRIPTS = ["Ein Bär isst Äpfel und trinkt süßen Kakao", "Une forêt enchantée à l'aube, façon Monet", "日本の城と桜の木",
           "красный круг на зелёном поле", "قطة سوداء تحت القمر", "חתול שחור על גג", "हरे मैदान पर लाल वृत्त",
           "초록 들판 위의 빨간 원", "วงกลมสีแดงบนทุ่งหญ้า", "Một vòng tròn đỏ trên cánh đồng", "ένας κόκκινος κύκλος",
           "红色的圆圈在绿色的田野上", "e\u0301tude au cafe\u0301", "étude au café", "ﬁne ligatures ½ ² № ™", "ⅷ Ⅻ ℵ ∑ ∫",
           "zero\u200bwidth\u200djoin\ufeff", "İstanbul'da ılık bir gün", "ß ẞ ſ", "\u202eright to left override"]
EMOJI = ["🦊", "🦊🌲🌙", "👩‍🚀🐎", "❤️ 🇯🇵 👨‍👩‍👧‍👦", "a cat 😺 with a hat 🎩 in the rain ☔️", "🟥🟩🟦 squares"]
ODD = ["", " ", "\n\t  \n", ".", "a", "A", "1", "!!!???...", "[CLS] [SEP] [MASK] [PAD] [UNK]", "<|startoftext|> a <|endoftext|>",
       "<b>bold</b> &amp; html", "def f(x): return x ** 2", "https://example.org/a?b=c&d=%20e", "3.14159 2,718 1e-9 0x1F",
       "don't can't it's we've I'm you'll he'd", "snake_case camelCase kebab-case", "semi;colon: comma, (round) [square]",
       "\"quotes\" 'single' “curly” «guillemets»", "null", "a\u0000b", "tab\tseparated\tvalues", "line one\nline two\r\nline three",
       "(masterpiece:1.4), ((best quality)), [[lowres]]", "--ar 16:9 --v 5 --no text", "THE SAME IN CAPITALS", "the same in capitals"]


def long_texts(rng):
    words = " ".join(SUBJECTS + PLACES + STYLES[:6]).split()
    yield " ".join(rng.choice(words) for _ in range(2000))
    yield "antidisestablishmentarianism" * 40
    yield "x" * 5000
    yield "🦊" * 400
    yield "日本語" * 200
    for count in (60, 120, 200, 250, 253, 254, 255, 256, 300, 500):
        yield " ".join(["star"] * count)


def texts():
    rng = random.Random(20261123)
    out = SCRIPTS + EMOJI + ODD + list(long_texts(rng))
    while len(out) < 300:
        parts = [rng.choice(SUBJECTS), rng.choice(PLACES), rng.choice(STYLES)]
        text = ", ".join(part for part in parts if part)
        if rng.random() < 0.3:
            text += " and " + rng.choice(SUBJECTS) + " " + rng.choice(PLACES)
        if text not in out:
            out.append(text)
    return out
