//! The words themselves, English and Russian. `word` stands for itself, `stem*` for any word that begins so, `stem~` for the
//! stem with an ending of Russian declension; ё is written е, capitals small. A word too many costs a miss; one too few may
//! cost a false answer. Where a word stands twice, the first entry counts.

pub(super) type Table = &'static [(&'static str, &'static str)];

/// What flips a question: each side is a fact of its own.
pub(super) const SIDES: Table = &[
    ("off", "off disabl* deactivat* turnoff выключ* отключ* деактивир*"),
    ("on", "enabl* activat* включ* активир*"),
    ("out", "out logout signout checkout выход* выйти выйд* выехать выезд*"),
    ("in", "login signin checkin вход* войти войд* въезд* въехать"),
    ("exclude", "exclud* except* exclus* исключ* кроме помимо"),
    ("include", "includ* inclus* учитыва*"),
    ("forbid", "forbid* forbade prohibit* ban banned bans deny denie* disallow* illegal* запре*"),
    ("allow", "allow allows allowed allowing permit permits permitted authoriz* legal* разреш* позвол* законн~"),
    ("close", "clos* shut* закры*"),
    ("open", "open* откры* откро*"),
    ("decrease", "decreas* reduc* lower* shrink* cut уменьш* сниж* снизи* пониж* понизи* сокра*"),
    ("increase", "increas* rais* grow* extend* увелич* повыс* повыш* расшир* продл*"),
    ("less", "less fewer below under меньш* ниже менее"),
    ("more", "more greater higher above over exceed* longer больш* выше более свыше превы* дольше"),
    ("least", "least minim* lowest smallest fewest shortest миним* наимень*"),
    ("most", "most maxim* max highest largest longest максим* наиболь* макс"),
    ("before", "before prior until till earlier до перед раньше ранее заранее"),
    ("after", "after later since following после позже спустя затем"),
    ("remove", "remov* delet* eras* uninstall* удал* убра* убер* стере* деинстал*"),
    ("add", "add adds added adding install* добав* устан*"),
    (
        "stop",
        "stop* finish* terminat* end ends ended ending останов* законч* заканч* заверш* прекрат* прекращ* конец конца конце окончан*",
    ),
    ("start", "start* begin* began launch* initiat* нача* начин* запус* старт*"),
    ("disconnect", "disconnect* detach* unsubscrib* unlink* отсоедин* отпис*"),
    ("connect", "connect* attach* subscrib* link* подключ* присоедин* подпис*"),
    ("sell", "sell* sold sale* прода*"),
    ("buy", "buy* bought purchas* купи* куплю покуп* закуп*"),
    ("send", "send* sent outgoing отправ* посла* пошл* посыл* исходящ~"),
    ("receive", "receiv* incoming получ* входящ~"),
    ("download", "download* скача* выгру*"),
    ("upload", "upload* загру*"),
    ("import", "import imports imported importing импорт*"),
    ("export", "export* экспорт*"),
    ("reject", "reject* declin* refus* cancel* отклон* отказ* отмен*"),
    ("approve", "approv* accept* confirm* одобр* соглас* утвер* подтвер* приня* приним*"),
    ("hire", "hire hires hired hiring нанять наня* найм~ устро*"),
    ("fire", "fire fired firing dismiss* resign* quit* увол* увел*"),
    ("unblock", "unblock* unlock* разблок*"),
    ("block", "block* lock locks locked locking заблок* блокир*"),
    ("encrypt", "encrypt* зашифр* шифрова*"),
    ("decrypt", "decrypt* расшифр* дешифр*"),
    ("external", "external* outside внешн~ снаружи"),
    ("internal", "internal* inside внутр*"),
    ("public", "public* публичн* общедоступ*"),
    ("private", "private* приватн* личн~ частн~"),
    ("loss", "loss* lose* lost убыт* потер*"),
    ("profit", "profit* win* won прибыл* выигр*"),
    ("expense", "expens* spend* spent расход* затрат*"),
    ("income", "incom* revenue* earn* доход* выручк~ заработ*"),
    ("debit", "debit* дебет*"),
    ("credit", "credit* кредит*"),
    ("gross", "gross брутто"),
    ("net", "net нетто"),
    ("left", "left лев~ слева налево влево"),
    ("right", "right прав~ справа направо вправо"),
    ("down", "down downgrad* вниз*"),
    ("up", "up upgrad* вверх* наверх*"),
    ("encode", "encod* compress* zip archiv* сжа* сжим* архивир* заархивир*"),
    ("decode", "decod* decompress* unzip* extract* распак* разархивир* извле*"),
    ("only", "only solely just только лишь исключительно"),
    ("all", "all every* each entire whole все всех всем всеми весь вся всю всей всего кажд~"),
    ("some", "some several часть част~ нескольк~ некотор~"),
    ("best", "best лучш*"),
    ("worst", "worst худш*"),
    ("many", "much много многие многих"),
    ("few", "little few мало малое немногие"),
    ("hide", "hid* mut* скры* спря*"),
    ("show", "unhid* unmut* show* displ* показ* отобраз*"),
    ("raise", "подня* поднима* повыс*"),
    ("drop", "drop* опусти* опуска*"),
    ("freeze", "freez* froz* заморо* замора* морозить"),
    ("unfreeze", "unfreez* unfroz* разморо* размора*"),
    ("give", "give gives gave giving дать даю давать выда* переда*"),
    ("take", "take takes took taking взять беру брать забра*"),
    ("old", "old older former outdated стар~ бывш~ прежн~"),
    ("new", "new newer нов~ новейш~"),
    ("short", "short* brief* коротк* кратк* коротко"),
    ("long", "long длинн* долг* подробн*"),
    ("early", "early рано ранн~"),
    ("late", "late lateness опозд* опазд* поздно поздн~"),
    ("cheap", "cheap* дешев* недорог*"),
    ("expensive", "pricey costly дорог*"),
    ("fast", "fast* quick* быстр* ускор*"),
    ("slow", "slow* медлен* замедл*"),
    ("high", "high высок* верхн~"),
    ("low", "low низк* нижн~"),
    ("full", "full* complet* полн* целик*"),
    ("partial", "part partial* part-time частичн*"),
    ("manual", "manual* вручную ручн~"),
    ("automatic", "automatic* auto автоматич*"),
    ("temporary", "tempor* временн*"),
    ("permanent", "permanent* постоянн* бессрочн*"),
    ("optional", "option* voluntar* добровольн*"),
    ("mandatory", "mandator* obligat* requir* must обязан* обязат* долж* требу*"),
    ("lend", "lend* lent одолж*"),
    ("borrow", "borrow* занять взаймы"),
    ("online", "online remote* удален* дистанц* онлайн*"),
    ("offline", "offline офлайн*"),
    ("advantages", "advantag* benefit* pros плюс* преимущ* достоинств*"),
    ("drawbacks", "disadvantag* drawback* cons минус* недостат* риск*"),
];

/// Who deals with whom: of two, the order counts.
pub(super) const PARTIES: Table = &[
    ("employer", "employer* работодател*"),
    ("employee", "employee* worker* сотрудни* работни*"),
    ("manager", "manager* boss* supervisor* руководител* начальни* менеджер*"),
    ("subordinate", "subordinate* подчинен*"),
    ("customer", "customer* client* заказчи* клиент*"),
    ("supplier", "supplier* vendor* contractor* поставщи* подрядчи* исполнител*"),
    ("buyer", "buyer* покупател*"),
    ("seller", "seller* продавец продавц*"),
    ("lender", "lender* creditor* кредитор* заимодав*"),
    ("debtor", "debtor* borrower* должник* заемщи*"),
    ("landlord", "landlord* арендодател*"),
    ("tenant", "tenant* lessee* арендатор*"),
    ("administrator", "admin* админ*"),
    ("user", "user users user's пользовател*"),
    ("company", "company companies компани* организаци*"),
    ("bank", "bank banks банк~"),
    ("accountant", "accountant* бухгалтер~"),
    ("lawyer", "lawyer* юрист~"),
    ("doctor", "doctor* врач~"),
    ("child", "child* ребен* дети детей детям детьми"),
    ("parent", "parent* родител*"),
];

pub(super) const ASKS: Table = &[
    ("when", "when когда"),
    ("where", "where где куда откуда"),
    ("who", "who whom whose кто кого кому кем ком чей чья чьи"),
    ("why", "why почему зачем отчего"),
    ("how many", "many much сколько скольк~"),
];

pub(super) const SOURCES: &str = "from из от с со изо ото";

pub(super) const NEGATIONS: &str = "hardly barely rarely seldom едва вряд редко not no none never nothing nobody nowhere neither nor without cannot cant dont doesnt isnt wont \
    unable fail fails failed failing lack lacks missing impossible invalid incorrect inactive incomplete non не нет ни без \
    безо нельзя никогда никто никого никому никем ничто ничего ничем никак нигде никуда никакой никакая никакие никаких \
    невозможно неверн~ отсутств*";

/// What begins like a negation and is none.
pub(super) const UNNEGATED: &str = "unit union uniq univers until unless under unanim uniform недел нескольк недавн нефт \
    необходим некотор нерв немец немедлен небес нежел непосредств";

pub(super) const PRONOUNS: &str = "i you he she it we they me him her us them my your his its our their a an the \
    я ты он она оно мы вы они меня мне мной ли же бы";

pub(super) const FUNCTION: &str = "i you he she it we they me him her us them my your his its our their a an the is are was were be \
    been being am do does did done have has had having will would can could should may might shall to of in on at for by \
    with and or but if that this these those there then so very really please as than about into any \
    я ты он она оно мы вы они меня мне мной тебя тебе вас вам нам нас их его ее ему ей им мой моя мое мои моего моей моем \
    мою свой своя свое свои своего своей свою своем наш наша наше наши нашего нашей ваш ваша ваше ваши и а но или в во на к \
    ко у о об обо за по под над при для ли же бы то это этот эта эти этого этой этом был была было были быть есть буду \
    будет что чтобы как так вот тут там еще уже очень пожалуйста ведь себя себе";

pub(super) const OPENERS: &str = "what how which whether tell give show explain describe list find help need want let write translate \
    summarize summarise calculate compare create make say name define check hi hello hey thanks thank ok okay yes im id ive \
    what's how's i'm i'd i've i'll let's could would \
    какой какая какое какие каков какова каковы какого какому каким каком какую чем можно нужно надо могу можем может \
    можете хочу хотел хотела хотим требуется подскажи подскажите скажи скажите расскажи расскажите объясни объясните покажи \
    покажите помоги помогите дай дайте напиши напишите переведи переведите найди найдите перечисли перечислите опиши опишите \
    посчитай посчитайте рассчитай рассчитайте сравни сравните составь составьте назови назовите укажи укажите проверь \
    проверьте привет здравствуйте добрый прошу да насколько";

/// Endings of Russian declension, that of the bare stem among them.
pub(super) const ENDINGS: [&str; 52] = [
    "", "а", "я", "о", "е", "ы", "и", "у", "ю", "ь", "й", "ой", "ей", "ый", "ий", "ая", "яя", "ое", "ее", "ые", "ие",
    "ого", "его", "ому", "ему", "ом", "ем", "ым", "им", "ую", "юю", "ых", "их", "ыми", "ими", "ам", "ям", "ами", "ями",
    "ах", "ях", "ов", "ев", "ью", "ья", "ье", "ьи", "ию", "ия", "ии", "ок", "ьих",
];
