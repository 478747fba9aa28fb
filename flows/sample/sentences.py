"""What the sample's sentence pairs are made of: constructions that say the same in both languages.

A line of `CONSTRUCTIONS` is a Chinese and an English template. ``{word}`` is drawn from the list of
that name and appears in both; ``{word2}`` is another one. In English ``{v+ed}`` is an inflected form:
of a verb phrase ``ed``, ``ing``, ``en`` or ``s`` (which agrees with the subject ``{s}``), of a subject
``be``, ``have``, ``he`` (any pronoun), ``him``, or a verb that agrees with it.
"""

import random
import re
from typing import NamedTuple


class Pair(NamedTuple):
    """A sentence and its translation."""

    zh: str
    en: str


CONSTRUCTIONS = """
{s}{past}{v}了。 = {s} {v+ed} {past}.
{past}{s}没有{v}。 = {s} did not {v} {past}.
{s}每天{daily}{v}。 = {s} {v+s} every {daily}.
{s}正在{act}。 = {s} {s+be} {act+ing}.
{s}打算{future}{v}。 = {s} {s+be} going to {v} {future}.
{future}{s}不能{v}。 = {s} cannot {v} {future}.
{s}很想{v}。 = {s} really {s+want} to {v}.
{s}喜欢{v}，不喜欢{v2}。 = {s} {s+like} to {v}, but not to {v2}.
{s}应该多{more}。 = {s} should {more}.
你{future}想{v}吗？ = Do you want to {v} {future}?
你想{v}还是{v2}？ = Do you want to {v} or {v2}?
你为什么{past}没{v}？ = Why didn't you {v} {past}?
你们什么时候{v}？ = When will you {v}?
{s}常常跟{person}一起{v}。 = {s} often {v+s} with {person}.
我们先{v}，再{v2}吧。 = Let's {v} first and then {v2}.
吃完饭以后，{s}{v}了。 = After the meal, {s} {v+ed}.
{person}不在家的时候，{s}总是{v}。 = When {person} is not at home, {s} always {v+s}.
如果{future}{weather}，我们就{v}。 = If {weather} {future}, we will {v}.
要是有时间，{s}就{v}。 = If there is time, {s} will {v}.
因为{reason}，所以{s}没有{v}。 = {s} did not {v} because {reason}.
虽然{reason}，但是{s}还是{v}了。 = Although {reason}, {s} still {v+ed}.
{person}告诉我，{reason}。 = {person} told me that {reason}.
{s}会{skill}，但是不会{skill2}。 = {s} can {skill}, but {s+he} cannot {skill2}.
{person}{skill}{well_done}。 = {person} {skill+s} {well_done}.
你会{skill}吗？ = Can you {skill}?
{s}学{skill}学了{dur}。 = {s} learned to {skill} for {dur}.
你能帮我{favour}吗？ = Can you help me {favour}?
请{favour}。 = Please {favour}.
请别{dont}。 = Please don't {dont}.
{past}{person}{ba}了。 = {person} {ba+ed} {past}.
{future}我会{ba}。 = I will {ba} {future}.
你{ba}了没有？ = Have you {ba+en} yet?
{thing}被{person}{bei}了。 = {thing} was {bei} by {person}.
{thing}不见了，你看见了吗？ = {thing} is gone. Have you seen it?
这是{person}送给我的{gift}。 = This is the {gift} that {person} gave me.
{s}想送给{person}一{gift_m}{gift}。 = {s} {s+want} to give {person} a {gift}.
这{gift_m}{gift}多少钱？ = How much is this {gift}?
这{gift_m}{gift}{money}。 = This {gift} costs {money}.
我{past}买的{gift}很{gadj}。 = The {gift} I bought {past} is very {gadj}.
这{gift_m}{gift}{too}一点儿的？ = This {gift} is {too} one?
{person}比{person2}{padj}。 = {person} is {padj+er} than {person2}.
{person}没有{person2}{padj}。 = {person} is not as {padj} as {person2}.
{child}今年{young}岁。 = {child} is {young} years old this year.
{elder}今年{old}岁，身体还很好。 = {elder} is {old} years old this year and still in good health.
{adult}是{job}工作。 = {adult} is {job}.
{adult}已经当了{dur}{trade}了。 = {adult} has been {trade} for {dur}.
{place}在哪儿？ = Where is the {place}?
请问，去{place}怎么走？ = Excuse me, how do I get to the {place}?
{place}就在{place2}旁边。 = The {place} is right next to the {place2}.
从{place}到{place2}要走{dur_short}。 = It takes {dur_short} to walk from the {place} to the {place2}.
{place}离这儿不远，走{dur_short}就到。 = The {place} is not far from here; it is {dur_short} on foot.
{place}前面有{num}{many_m}{many}。 = There are {num} {many} in front of the {place}.
{place}里没有{many}。 = There are no {many} in the {place}.
{event}几点开始？ = What time does {event} start?
{event}{clock}开始。 = {event} starts at {clock}.
{event}快要开始了，我们快走吧。 = {event} is about to start; let's hurry.
{event}比我想的{eadj}。 = {event} was {eadj+er} than I had expected.
你觉得{event}怎么样？ = What did you think of {event}?
{s}坐{ride}去{city}。 = {s} {s+go} to {city} by {ride}.
你去过{city}吗？ = Have you ever been to {city}?
{s}从来没去过{city}。 = {s} {s+have} never been to {city}.
{s}在{city}住了{dur}。 = {s} lived in {city} for {dur}.
{city}的{season}很{climate}。 = {season} in {city} is very {climate}.
{city}比{city2}{climate}。 = {city} is {climate+er} than {city2}.
天气越来越{climate}了。 = The weather is getting {climate+er+}.
{future}会{rain}吗？ = Will it {rain} {future}?
你吃过{food}吗？ = Have you ever eaten {food}?
{s}最喜欢吃的是{food}。 = What {s} {s+like} to eat most is {food}.
{person}做的{food}很好吃。 = The {food} that {person} makes {food+be} delicious.
除了{food}以外，我们还点了{food2}。 = Besides {food}, we also ordered {food2}.
你要{drink}还是{drink2}？ = Would you like {drink} or {drink2}?
请给我一杯{drink}。 = A cup of {drink}, please.
{s}从{past_month}开始学{subject}。 = {s} started to learn {subject} in {past_month}.
{subject}不难，但是要花很多时间。 = {subject} is not difficult, but it takes a lot of time.
对{s}来说，{subject}比{subject2}难。 = For {s+him}, {subject} is harder than {subject2}.
{s}对{subject}很感兴趣。 = {s} {s+be} very interested in {subject}.
{s}一边{act}，一边{listen}。 = {s} {act+s} while {listen+ing}.
不管{s}多忙，每天都{well}。 = No matter how busy {s} {s+be}, {s+he} {well+s} every day.
"""

LISTS = {
    "s": """
我 = I | 你 = you | 他 = he | 她 = she | 我们 = we | 他们 = they | 小明 = Xiaoming
我妹妹 = my younger sister | 我哥哥 = my elder brother | 我父母 = my parents | 李老师 = Teacher Li
""",
    "person": """
我妈妈 = my mother | 我爸爸 = my father | 我弟弟 = my younger brother | 我奶奶 = my grandmother
我朋友 = my friend | 我同事 = my colleague | 王先生 = Mr. Wang | 张医生 = Doctor Zhang
小红 = Xiaohong | 我的邻居 = my neighbour | 我叔叔 = my uncle | 陈小姐 = Miss Chen
""",
    "act": """
看电视 = watch television | 写信 = write letters | 做晚饭 = cook dinner | 打扫房间 = clean the room
洗衣服 = wash clothes | 练习书法 = practise calligraphy | 复习功课 = review the lessons
给花浇水 = water the flowers | 学做蛋糕 = learn to bake cakes | 在河边钓鱼 = fish by the river
跟孩子玩 = play with the children | 准备考试 = prepare for the exam | 画画 = paint pictures
喝茶聊天 = drink tea and chat | 看报纸 = read the newspaper | 织毛衣 = knit a sweater
整理书架 = tidy the bookshelf | 在网上买东西 = shop online | 擦窗户 = wipe the windows
""",
    "out": """
去公园散步 = go for a walk in the park | 去图书馆看书 = read in the library
去超市买菜 = buy vegetables at the supermarket | 去看电影 = go to the cinema | 踢足球 = play football
打乒乓球 = play table tennis | 去医院看奶奶 = visit grandmother in hospital | 爬山 = climb the mountain
去海边游泳 = swim in the sea | 下棋 = play chess | 去博物馆参观 = visit the museum
骑自行车去学校 = ride a bicycle to school | 听音乐会 = listen to a concert | 去饭店吃饭 = eat in a restaurant
去机场接朋友 = meet a friend at the airport | 去理发 = get a haircut
""",
    "well": "喝茶 = drink tea | 看书 = read | 运动 = exercise | 练习 = practise | 给家里打电话 = call home",
    "more": """
喝水 = drink more water | 睡觉 = sleep more | 看书 = read more | 运动 = exercise more | 休息 = rest more
练习 = practise more | 吃蔬菜 = eat more vegetables | 听老师的话 = listen more to the teacher
""",
    "skill": """
游泳 = swim | 开车 = drive | 弹钢琴 = play the piano | 说英语 = speak English | 做中国菜 = cook Chinese food
拉二胡 = play the erhu | 滑冰 = skate | 写毛笔字 = write with a brush | 修自行车 = repair bicycles
跳舞 = dance | 包饺子 = make dumplings
""",
    "well_done": "很好 = well | 不好 = badly | 很快 = quickly | 很认真 = carefully",
    "favour": """
开门 = open the door | 关窗户 = close the window | 拿行李 = carry the luggage | 找一下钥匙 = look for the key
订两张票 = book two tickets | 照一张相 = take a photo | 检查一下作业 = check the homework
叫一辆出租车 = call a taxi | 翻译这句话 = translate this sentence | 打印这份文件 = print this document
照顾一下小猫 = look after the kitten | 买一份报纸 = buy a newspaper
""",
    "dont": """
在这儿抽烟 = smoke here | 大声说话 = talk loudly | 忘了带伞 = forget to bring an umbrella
担心我 = worry about me | 告诉别人 = tell anyone | 碰那个杯子 = touch that cup | 迟到 = be late
在床上看手机 = use the phone in bed | 浪费时间 = waste time | 站在门口 = stand in the doorway
""",
    "ba": """
把门关上 = close the door | 把窗户打开 = open the window | 把书还给图书馆 = return the books to the library
把信寄出去 = post the letter | 把衣服洗干净 = wash the clothes clean | 把钱还给他 = pay him the money back
把自行车修好 = repair the bicycle | 把照片发给大家 = send everyone the photos
把桌子搬到楼上 = carry the table upstairs | 把作业写完 = finish the homework
把这件事告诉老师 = tell the teacher about this | 把旧报纸卖掉 = sell the old newspapers
""",
    "thing": """
我的自行车 = my bicycle | 桌子上的蛋糕 = the cake on the table | 他的书包 = his schoolbag
那本词典 = that dictionary | 我的雨伞 = my umbrella | 妈妈的花瓶 = mother's vase
昨天的报纸 = yesterday's newspaper | 门口的椅子 = the chair at the door
""",
    "bei": "拿走 = taken away | 弄坏 = broken | 借走 = borrowed | 找到 = found | 扔掉 = thrown away",
    "gift gift_m": """
围巾/条 = scarf | 帽子/顶 = hat | 手表/块 = watch | 杯子/个 = cup | 书包/个 = schoolbag | 毛衣/件 = sweater
台灯/盏 = lamp | 钱包/个 = wallet | 足球/个 = football | 裙子/条 = skirt | 相机/台 = camera | 枕头/个 = pillow
""",
    "gadj": """
便宜 = cheap | 漂亮 = pretty | 大 = big | 小 = small | 轻 = light | 结实 = strong | 贵 = expensive
""",
    "too": """
太贵了，有没有便宜 = too expensive. Do you have a cheaper | 太大了，有没有小 = too big. Do you have a smaller
太小了，有没有大 = too small. Do you have a bigger | 太旧了，有没有新 = too old. Do you have a newer
""",
    "padj": """
高 = tall | 忙 = busy | 年轻 = young | 细心 = careful | 有耐心 = patient | 有名 = famous
安静 = quiet | 聪明 = clever | 健康 = healthy
""",
    "eadj": "有意思 = interesting | 长 = long | 精彩 = exciting | 无聊 = boring | 短 = short | 热闹 = lively",
    "climate": "冷 = cold | 热 = hot | 暖和 = warm | 凉快 = cool | 潮湿 = wet | 干燥 = dry",
    "rain": "下雨 = rain | 下雪 = snow | 起雾 = be foggy | 刮风 = be windy",
    "season": "春天 = spring | 夏天 = summer | 秋天 = autumn | 冬天 = winter",
    "past": """
昨天 = yesterday | 上个星期 = last week | 昨天晚上 = last night | 三天前 = three days ago
上个月 = last month | 今天早上 = this morning | 星期天 = on Sunday | 去年夏天 = last summer
""",
    "future": """
明天 = tomorrow | 下个星期 = next week | 今天晚上 = tonight | 后天 = the day after tomorrow
这个周末 = this weekend | 下个月 = next month | 星期五 = on Friday | 明天下午 = tomorrow afternoon
""",
    "daily": "早上 = morning | 下午 = afternoon | 晚上 = evening",
    "past_month": "一月 = January | 三月 = March | 六月 = June | 九月 = September | 去年十月 = October last year",
    "weather": "下雨 = it rains | 不下雨 = it does not rain | 天气好 = the weather is good | 太热 = it is too hot",
    "reason": """
天气不好 = the weather was bad | 时间很晚 = it was very late | 外面很冷 = it was cold outside
钱不够 = there was not enough money | 路上堵车 = there was a traffic jam | 工作很忙 = work was busy
外面在下大雨 = it was raining hard outside | 身体不舒服 = everyone felt unwell
最后一班车已经走了 = the last bus had already left | 电脑坏了 = the computer was broken
""",
    "listen": "听音乐 = listen to music | 听广播 = listen to the radio | 唱歌 = sing | 打电话 = talk on the phone",
    "dur": "三年 = three years | 半年 = half a year | 两个月 = two months | 很长时间 = a long time | 一年多 = over a year",
    "dur_short": "十分钟 = ten minutes | 半个小时 = half an hour | 一刻钟 = a quarter of an hour | 一个小时 = an hour",
    "money": "五十块钱 = fifty yuan | 一百二十块钱 = one hundred and twenty yuan | 两百块钱 = two hundred yuan | 八十块钱 = eighty yuan",
    "child": "我弟弟 = my younger brother | 小红 = Xiaohong | 王先生的儿子 = Mr. Wang's son | 她女儿 = her daughter",
    "young": "六 = six | 八 = eight | 十 = ten | 十二 = twelve | 十五 = fifteen",
    "elder": "我奶奶 = my grandmother | 我爷爷 = my grandfather | 张医生 = Doctor Zhang | 李老师 = Teacher Li",
    "old": "六十五 = sixty-five | 七十 = seventy | 七十八 = seventy-eight | 八十 = eighty",
    "adult": """
我妈妈 = my mother | 我爸爸 = my father | 我姐姐 = my elder sister | 王先生 = Mr. Wang | 陈小姐 = Miss Chen
我叔叔 = my uncle | 我的邻居 = my neighbour | 我朋友 = my friend
""",
    "job": """
医生，在医院 = a doctor and works at the hospital | 老师，在学校 = a teacher and works at the school
厨师，在饭店 = a cook and works at the restaurant | 护士，在医院 = a nurse and works at the hospital
会计，在银行 = an accountant and works at the bank | 工程师，在工厂 = an engineer and works at the factory
""",
    "trade": """
医生 = a doctor | 老师 = a teacher | 司机 = a driver | 工程师 = an engineer | 厨师 = a cook | 护士 = a nurse
""",
    "place": """
火车站 = railway station | 医院 = hospital | 邮局 = post office | 银行 = bank | 图书馆 = library
饭店 = restaurant | 学校 = school | 超市 = supermarket | 书店 = bookshop | 博物馆 = museum
""",
    "num": "两 = two | 三 = three | 五 = five | 十 = ten",
    "many many_m": """
树/棵 = trees | 椅子/把 = chairs | 自行车/辆 = bicycles | 学生/个 = students | 小狗/只 = puppies | 灯/盏 = lamps
""",
    "event": """
电影 = the film | 比赛 = the match | 音乐会 = the concert | 会议 = the meeting | 晚会 = the party
考试 = the exam | 演讲 = the speech
""",
    "clock": """
八点 = eight o'clock | 下午两点 = two in the afternoon | 晚上七点半 = half past seven in the evening
早上九点 = nine in the morning | 十点一刻 = a quarter past ten
""",
    "ride": "火车 = train | 飞机 = plane | 公共汽车 = bus | 船 = boat",
    "city": """
北京 = Beijing | 上海 = Shanghai | 西安 = Xi'an | 杭州 = Hangzhou | 广州 = Guangzhou | 伦敦 = London
巴黎 = Paris | 东京 = Tokyo | 成都 = Chengdu | 哈尔滨 = Harbin
""",
    "food": """
饺子 = dumplings | 牛肉面 = beef noodles | 烤鸭 = roast duck | 炒饭 = fried rice | 鱼汤 = fish soup
包子 = steamed buns | 麻婆豆腐 = mapo tofu | 苹果派 = apple pie | 西红柿炒鸡蛋 = scrambled eggs with tomatoes
""",
    "drink": "红茶 = black tea | 绿茶 = green tea | 咖啡 = coffee | 牛奶 = milk | 热水 = hot water | 果汁 = juice",
    "subject": """
数学 = mathematics | 英语 = English | 历史 = history | 法语 = French | 音乐 = music | 物理 = physics
书法 = calligraphy | 编程 = programming
""",
}
LISTS["v"] = LISTS["act"].rstrip() + LISTS["out"]

# The forms of a subject. One that is not here is a single person.
_SUBJECT_FORMS = ("be", "have", "he", "him")
_SUBJECTS = {
    "I": ("am", "have", "I", "me"),
    "you": ("are", "have", "you", "you"),
    "he": ("is", "has", "he", "him"),
    "she": ("is", "has", "she", "her"),
    "we": ("are", "have", "we", "us"),
    "they": ("are", "have", "they", "them"),
    "Xiaoming": ("is", "has", "he", "Xiaoming"),
    "my younger sister": ("is", "has", "she", "my younger sister"),
    "my elder brother": ("is", "has", "he", "my elder brother"),
    "my parents": ("are", "have", "they", "my parents"),
    "Teacher Li": ("is", "has", "she", "Teacher Li"),
    "dumplings": ("are", "have", "they", "them"),
    "beef noodles": ("are", "have", "they", "them"),
    "steamed buns": ("are", "have", "they", "them"),
    "scrambled eggs with tomatoes": ("are", "have", "they", "them"),
}
_PERSON = ("is", "has", "he", "him")

# Base form: past, past participle, where they are not regular.
_IRREGULAR = {
    "be": ("was", "been"),
    "buy": ("bought", "bought"),
    "eat": ("ate", "eaten"),
    "get": ("got", "got"),
    "knit": ("knitted", "knitted"),
    "meet": ("met", "met"),
    "drink": ("drank", "drunk"),
    "drive": ("drove", "driven"),
    "forget": ("forgot", "forgotten"),
    "go": ("went", "gone"),
    "hold": ("held", "held"),
    "make": ("made", "made"),
    "pay": ("paid", "paid"),
    "read": ("read", "read"),
    "ride": ("rode", "ridden"),
    "sell": ("sold", "sold"),
    "send": ("sent", "sent"),
    "sing": ("sang", "sung"),
    "sleep": ("slept", "slept"),
    "speak": ("spoke", "spoken"),
    "swim": ("swam", "swum"),
    "tell": ("told", "told"),
    "write": ("wrote", "written"),
}
_DOUBLED = {"chat", "forget", "get", "knit", "shop", "swim"}
_COMPARATIVES = {"careful": "more careful", "big": "bigger", "hot": "hotter", "wet": "wetter"}
_LONG = {"expensive", "patient", "famous", "interesting", "exciting", "boring"}


def _inflect(verb: str, form: str) -> str:
    """One verb in the form ``ed``, ``en``, ``ing`` or ``s`` (third person)."""
    if form in {"ed", "en"} and verb in _IRREGULAR:
        return _IRREGULAR[verb][form == "en"]
    if form == "s":
        if verb == "be":
            return "is"
        if re.search(r"(s|x|z|ch|sh|o)$", verb):
            return verb + "es"
        return verb[:-1] + "ies" if re.search(r"[^aeiou]y$", verb) else verb + "s"
    if verb in _DOUBLED:
        verb += verb[-1]
    elif verb.endswith("e") and verb != "be":
        verb = verb[:-1]
    elif form != "ing" and re.search(r"[^aeiou]y$", verb):
        verb = verb[:-1] + "i"
    return verb + ("ing" if form == "ing" else "ed")


def conjugate(phrase: str, form: str) -> str:
    """A verb phrase in another form; in ``drink tea and chat`` both verbs change."""
    head, both, tail = phrase.partition(" and ")
    verb, blank, rest = head.partition(" ")
    return _inflect(verb, form) + blank + rest + (both and both + _inflect(tail, form))


def compare(adjective: str) -> str:
    """The comparative of an adjective."""
    if adjective in _COMPARATIVES or adjective in _LONG:
        return _COMPARATIVES.get(adjective, "more " + adjective)
    if adjective.endswith("y"):
        return adjective[:-1] + "ier"
    return adjective + ("r" if adjective.endswith("e") else "er")


def _form(word: str, form: str, subject: str) -> str:
    """A word of the English side in the form that its template asks for."""
    if form == "":
        return word
    if form == "er":
        return compare(word)
    if form == "er+":
        more = compare(word)
        return f"more and {more}" if more.startswith("more ") else f"{more} and {more}"
    if form == "s":
        return conjugate(word, "s") if _SUBJECTS.get(subject, _PERSON)[0] == "is" else word
    if form in {"ed", "en", "ing"}:
        return conjugate(word, form)
    forms = _SUBJECTS.get(word, _PERSON)
    if form in _SUBJECT_FORMS:
        return forms[_SUBJECT_FORMS.index(form)]
    # Any other form is a verb that agrees with the word.
    return _inflect(form, "s") if forms[0] == "is" else form


def draw_pair(rng: random.Random) -> Pair:
    """One pair from a construction drawn at random."""
    zh, en = rng.choice(CONSTRUCTIONS.strip().split("\n")).split(" = ")
    zh_words: dict[str, str] = {}
    en_words: dict[str, str] = {}
    for name, number in re.findall(r"\{([a-z_]+)(\d*)[+}]", zh + en):
        if name + number in zh_words or name + number in en_words:
            continue
        columns = next(columns for columns in LISTS if name in columns.split())
        rows = re.split(r" \| |\n", LISTS[columns].strip())
        row = rng.choice([row for row in rows if row.split(" = ")[1] not in en_words.values()])
        zh_row, en_word = row.split(" = ")
        for column, zh_word in zip(columns.split(), zh_row.split("/"), strict=True):
            zh_words[column + number] = zh_word
        en_words[columns.split()[0] + number] = en_word
    subject = en_words.get("s") or en_words.get("person", "")
    sentence = re.sub(
        r"\{([a-z_]+\d*)\+?([a-z]*\+?)\}",
        lambda field: _form(en_words[field[1]], field[2], subject),
        en,
    )
    return Pair(zh.format_map(zh_words), sentence[0].upper() + sentence[1:])
